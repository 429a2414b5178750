# The service of a trained run:  docker build -t genrec . && docker run -p 8000:8000 -v "$PWD/artifacts:/artifacts" genrec mhl
FROM python:3.11-slim

# torch brings gigabytes of CUDA libraries by default. TORCH_OPTIONS is for the options of pip that choose the CPU build.
ARG TORCH_OPTIONS=""
RUN pip install --no-cache-dir torch ${TORCH_OPTIONS}

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY genrec_cli genrec_cli
RUN pip install --no-cache-dir '.[serve]' && rm -rf /src

RUN useradd --create-home genrec
USER genrec
WORKDIR /home/genrec
ENV GENREC_ROOT=/artifacts OMP_WAIT_POLICY=passive
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["genrec", "serve", "--host", "0.0.0.0", "--port", "8000"]
