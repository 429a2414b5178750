"""The words of the synthetic shop: scenarios, their roles in buying order, and invented brand names.

Data only. A scenario is a latent intent; its roles are complements of one another, and the products of
one role are substitutes. Brands belong to one scenario and stand from cheap to dear.
"""

from typing import NamedTuple


class Role(NamedTuple):
    """A place in a scenario: its name, the product's noun, its category, a middle price, variants."""

    name: str
    noun: str
    category: str
    price: float
    variants: tuple[str, ...]


class Scenario(NamedTuple):
    """A latent intent: a purpose that one buys for, role after role."""

    name: str
    department: str
    purpose: str
    brands: tuple[str, ...]
    roles: tuple[Role, ...]


SERIES = (
    "Alder", "Basin", "Cedar", "Dune", "Ember", "Fjord", "Glade", "Harbor", "Indigo", "Juniper", "Kestrel", "Lumen",
    "Meridian", "Nimbus", "Orchard", "Prairie", "Quill", "Ridge", "Summit", "Tundra", "Umber", "Vista", "Willow",
    "Zephyr",
)  # fmt: skip
"""Product lines. A line of one brand spans every role of its scenario."""

_CLOTH = ("Black", "Slate Grey", "Olive", "Navy")
_METAL = ("Brushed Steel", "Matte Black", "White", "Copper")
_SIZES = ("Small", "Medium", "Large", "X-Large")

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("photography", "Electronics", "travel and landscape photography",
             ("Pixelon", "Fotura", "Clarivue", "Oberlicht", "Argentis"), (
        Role("camera body", "Mirrorless Camera Body", "Digital Cameras", 620, ("20 MP", "24 MP", "33 MP", "45 MP")),
        Role("tripod", "Travel Tripod & Ball Head", "Tripods", 95, ("Aluminum", "Carbon Fiber", '58" Reach')),
        Role("camera bag", "Padded Camera Bag", "Bags & Cases", 60, _CLOTH),
        Role("lens", "Prime Lens", "Lenses", 310, ("24 mm f/2.8", "35 mm f/2", "50 mm f/1.8", "85 mm f/1.8")),
        Role("memory card", "SDXC Memory Card", "Memory Cards", 28, ("64 GB", "128 GB", "256 GB")),
        Role("filter", "Polarizing Filter Set", "Filters", 34, ("52 mm", "58 mm", "67 mm", "77 mm")),
    )),
    Scenario("coffee", "Home & Kitchen", "espresso and filter coffee at home",
             ("Brewly", "Caldora", "Moccari", "Tostino", "Larghetto"), (
        Role("espresso machine", "Espresso Machine", "Coffee Makers", 240, _METAL),
        Role("grinder", "Conical Burr Grinder", "Grinders", 85, _METAL),
        Role("coffee beans", "Whole Bean Coffee", "Coffee Beans", 16, ("Light Roast", "Medium Roast", "Dark Roast")),
        Role("milk frother", "Milk Frother & Pitcher", "Milk Frothers", 26, ("12 oz", "20 oz", "32 oz")),
        Role("scale", "Coffee Scale with Timer", "Scales", 32, ("Black", "White", "Bamboo")),
        Role("descaler", "Descaling Solution", "Cleaning", 11, ("8 oz", "16 oz", "Pack of 2")),
    )),
    Scenario("camping", "Sports & Outdoors", "weekend camping with the family",
             ("Trailnook", "Pinewick", "Norrhut", "Stonecairn", "Hochfell"), (
        Role("tent", "Family Tent", "Tents", 160, ("2 Person", "3 Person", "4 Person", "6 Person")),
        Role("sleeping bag", "Sleeping Bag", "Sleeping Bags", 70, ("32 F", "20 F", "0 F")),
        Role("sleeping pad", "Insulated Sleeping Pad", "Sleeping Pads", 45, ("Regular", "Wide", "Double")),
        Role("camp stove", "Two Burner Camp Stove", "Camp Stoves", 65, ("Propane", "Butane", "Dual Fuel")),
        Role("cookware", "Nesting Cookware Set", "Camp Cookware", 38, ("9 Piece", "12 Piece", "15 Piece")),
        Role("lantern", "Rechargeable LED Lantern", "Lanterns", 29, ("400 Lumens", "800 Lumens", "1200 Lumens")),
        Role("cooler", "Soft Sided Cooler", "Coolers", 48, ("12 Can", "24 Can", "36 Can")),
    )),
    Scenario("baking", "Home & Kitchen", "baking bread and cakes",
             ("Flourish", "Crumbly", "Panetta", "Ofenrot", "Millwright"), (
        Role("stand mixer", "Stand Mixer", "Mixers", 190, ("4.5 Quart", "5 Quart", "6 Quart")),
        Role("mixing bowls", "Mixing Bowls with Lids", "Mixing Bowls", 30, ("Set of 3", "Set of 5")),
        Role("cake pan", "Non-Stick Cake Pan", "Bakeware", 17, ('8"', '9"', '10"')),
        Role("proofing basket", "Bread Proofing Basket", "Bread Making", 22, ("Round", "Oval", "Set of 2")),
        Role("flour", "Organic Bread Flour", "Flours", 12, ("3 lb", "5 lb", "10 lb")),
        Role("piping set", "Piping Bag & Tip Set", "Decorating", 14, ("24 Piece", "42 Piece", "60 Piece")),
        Role("cooling rack", "Cooling Rack", "Cooling Racks", 15, ("Half Sheet", "Quarter Sheet", "Set of 2")),
    )),
    Scenario("skin care", "Beauty", "a gentle daily skin care routine",
             ("Dewberry", "Lunelle", "Amavera", "Hautklar", "Celestine"), (
        Role("cleanser", "Gentle Face Cleanser", "Cleansers", 13, ("5 oz", "8 oz", "16 oz")),
        Role("toner", "Hydrating Toner", "Toners", 15, ("Rose", "Witch Hazel", "Unscented")),
        Role("serum", "Vitamin C Face Serum", "Serums", 24, ("1 oz", "2 oz")),
        Role("moisturizer", "Daily Moisturizer", "Moisturizers", 20, ("Dry Skin", "Oily Skin", "All Skin Types")),
        Role("eye cream", "Firming Eye Cream", "Eye Treatments", 22, ("0.5 oz", "1 oz")),
        Role("sunscreen", "Mineral Face Sunscreen", "Sunscreens", 17, ("SPF 30", "SPF 50", "SPF 50 Tinted")),
        Role("face mask", "Clay & Charcoal Face Mask", "Masks", 14, ("4 oz", "8 oz", "Pack of 3")),
    )),
    Scenario("nail care", "Beauty", "a manicure at home",
             ("Glossette", "Nailora", "Petalux", "Vernika", "Lacquara"), (
        Role("nail file", "Glass Nail File & Buffer", "Files & Buffers", 7, ("Set of 2", "Set of 4")),
        Role("cuticle oil", "Cuticle Oil", "Cuticle Care", 9, ("Almond", "Jojoba", "Vitamin E")),
        Role("base coat", "Strengthening Base Coat", "Base Coats", 10, ("0.5 oz", "Pack of 2")),
        Role("nail polish", "Nail Polish", "Nail Polish", 8, ("Coral", "Ruby Red", "Dusty Rose", "Midnight Blue")),
        Role("top coat", "Quick Dry Top Coat", "Top Coats", 9, ("Glossy", "Matte")),
        Role("remover", "Acetone Free Remover", "Removers", 6, ("4 oz", "8 oz", "Pads, 60 Count")),
    )),
    Scenario("hair styling", "Beauty", "washing and styling curly hair",
             ("Curlique", "Tressio", "Manewell", "Locanda", "Capellissa"), (
        Role("shampoo", "Sulfate Free Shampoo", "Shampoos", 12, ("8 oz", "12 oz", "32 oz")),
        Role("conditioner", "Moisture Conditioner", "Conditioners", 12, ("8 oz", "12 oz", "32 oz")),
        Role("leave-in", "Leave-In Curl Cream", "Styling Products", 15, ("Light Hold", "Medium Hold")),
        Role("hair dryer", "Ionic Hair Dryer & Diffuser", "Hair Dryers", 58, ("1600 W", "1875 W", "2000 W")),
        Role("curling wand", "Ceramic Curling Wand", "Curling Irons", 36, ('0.75"', '1"', '1.25"')),
        Role("hair oil", "Argan Hair Oil", "Hair Oils", 16, ("2 oz", "4 oz")),
    )),
    Scenario("running", "Sports & Outdoors", "training for a first half marathon",
             ("Stridewell", "Fleetfoot", "Pacemark", "Velora", "Aerolauf"), (
        Role("running shoes", "Men's & Women's Running Shoes", "Shoes", 98, ("Size 7", "Size 8", "Size 9", "Size 10")),
        Role("running socks", "Cushioned Running Socks", "Socks", 15, ("3 Pack", "6 Pack")),
        Role("shorts", "Lightweight Running Shorts", "Clothing", 28, _SIZES),
        Role("sports watch", "GPS Running Watch", "Fitness Watches", 150, _CLOTH),
        Role("hydration belt", "Hydration Belt", "Hydration", 27, ("Two Bottles", "Four Bottles")),
        Role("energy gels", "Energy Gels", "Sports Nutrition", 25, ("Citrus, 12 Count", "Berry, 24 Count")),
        Role("foam roller", "Foam Roller", "Recovery", 23, ('13"', '18"', '36"')),
    )),
    Scenario("cycling", "Sports & Outdoors", "commuting by bicycle",
             ("Spokely", "Cadenza Bikes", "Rouleur & Sons", "Pedalia", "Windleg"), (
        Role("helmet", "Commuter Bike Helmet", "Helmets", 52, _SIZES),
        Role("bike lights", "USB Bike Light Set", "Lights", 29, ("300 Lumens", "600 Lumens", "1000 Lumens")),
        Role("bike lock", "Folding Bike Lock", "Locks", 46, ('30"', '34"', '40"')),
        Role("pannier", "Waterproof Pannier", "Bags & Panniers", 58, _CLOTH),
        Role("floor pump", "Floor Pump with Gauge", "Pumps", 36, ("Black", "Silver")),
        Role("multi tool", "Bicycle Multi Tool", "Tools", 19, ("10 Functions", "16 Functions", "20 Functions")),
    )),
    Scenario("yoga", "Sports & Outdoors", "practicing yoga at home",
             ("Asanova", "Prajna", "Lotuswell", "Stillwater", "Omkara"), (
        Role("yoga mat", "Non-Slip Yoga Mat", "Yoga Mats", 36, ("4 mm, Teal", "5 mm, Plum", "6 mm, Charcoal")),
        Role("blocks", "Cork Yoga Blocks", "Blocks", 19, ('Set of 2, 3"', 'Set of 2, 4"')),
        Role("strap", "Cotton Yoga Strap", "Straps", 10, ("6 ft", "8 ft", "10 ft")),
        Role("bolster", "Yoga Bolster Pillow", "Bolsters", 44, ("Round", "Rectangular")),
        Role("leggings", "High Waist Leggings", "Clothing", 34, _SIZES),
        Role("mat spray", "Tea Tree Mat Spray", "Mat Care", 12, ("4 oz", "8 oz")),
    )),
    Scenario("home office", "Office Products", "working from home",
             ("Deskara", "Ergonova", "Workwell", "Bureauline", "Sitzgut"), (
        Role("desk", "Height Adjustable Desk", "Desks", 280, ('48" Oak', '55" Walnut', '60" White')),
        Role("chair", "Ergonomic Mesh Chair", "Chairs", 190, _CLOTH),
        Role("monitor", "IPS Monitor", "Monitors", 210, ('24" Full HD', '27" QHD', '32" 4K')),
        Role("keyboard", "Wireless Keyboard & Mouse", "Keyboards", 54, ("Quiet Keys", "Mechanical", "Compact")),
        Role("desk lamp", "Dimmable Desk Lamp", "Lamps", 37, _METAL),
        Role("webcam", "Full HD Webcam", "Webcams", 49, ("1080p", "1440p", "4K")),
        Role("cable tray", "Under Desk Cable Tray", "Cable Management", 22, ('16"', '24"', "2 Pack")),
    )),
    Scenario("gaming", "Video Games", "playing games on the computer",
             ("Nexplay", "Ragecore", "Frostbyte", "Vantablade", "Titanforge"), (
        Role("gaming mouse", "Optical Gaming Mouse", "Mice", 42, ("8,000 DPI", "16,000 DPI", "26,000 DPI")),
        Role("mouse pad", "Extended Mouse Pad", "Mouse Pads", 17, ("Large", "XL", "XXL")),
        Role("gaming keyboard", "Mechanical Gaming Keyboard", "Keyboards", 84, ("Red Switch", "Blue Switch", "Silent")),
        Role("headset", "Surround Sound Headset", "Headsets", 66, ("Wired", "Wireless")),
        Role("gaming chair", "Gaming Chair", "Chairs", 180, ("Black & Red", "Black & Blue", "White")),
        Role("controller", "PC Game Controller", "Controllers", 46, ("Wired", "Wireless", "Pro")),
    )),
    Scenario("gardening", "Patio, Lawn & Garden", "growing vegetables in raised beds",
             ("Sproutly", "Greenfurrow", "Hortivo", "Gartenglück", "Thistledown"), (
        Role("raised bed", "Raised Garden Bed", "Raised Beds", 88, ("4 x 4 ft", "3 x 6 ft", "4 x 8 ft")),
        Role("potting soil", "Organic Potting Soil", "Soils", 19, ("8 Quarts", "16 Quarts", "1 cu ft")),
        Role("seeds", "Heirloom Vegetable Seeds", "Seeds", 13, ("10 Varieties", "20 Varieties", "35 Varieties")),
        Role("hand tools", "Trowel & Pruner Set", "Hand Tools", 27, ("3 Piece", "5 Piece", "8 Piece")),
        Role("garden hose", "Expandable Garden Hose", "Watering", 36, ("25 ft", "50 ft", "100 ft")),
        Role("fertilizer", "Slow Release Fertilizer", "Fertilizers", 16, ("2 lb", "4 lb", "8 lb")),
        Role("plant labels", "Slate Plant Labels", "Accessories", 9, ("Set of 12", "Set of 24")),
    )),
    Scenario("new baby", "Baby", "the first months with a baby",
             ("Cuddlenest", "Bambolino", "Tinytoes", "Wiegenlied", "Petit Nuage"), (
        Role("stroller", "Folding Stroller", "Strollers", 210, _CLOTH),
        Role("car seat", "Infant Car Seat", "Car Seats", 170, _CLOTH),
        Role("bottles", "Anti-Colic Bottles", "Feeding", 24, ("5 oz, 4 Pack", "9 oz, 4 Pack", "9 oz, 6 Pack")),
        Role("swaddles", "Muslin Swaddle Blankets", "Bedding", 29, ("3 Pack", "4 Pack")),
        Role("baby monitor", "Video Baby Monitor", "Monitors", 115, ('3.5" Screen', '5" Screen')),
        Role("diaper bag", "Diaper Bag Backpack", "Diaper Bags", 43, _CLOTH),
        Role("play mat", "Tummy Time Play Mat", "Play Mats", 46, ("Forest", "Ocean", "Safari")),
    )),
    Scenario("dog", "Pet Supplies", "bringing home a young dog",
             ("Waggins", "Barkley Lane", "Hundwerk", "Pawsome", "Fidelio"), (
        Role("dog bed", "Orthopedic Dog Bed", "Beds", 52, _SIZES),
        Role("leash", "Padded Leash & Harness", "Leashes & Harnesses", 26, _SIZES),
        Role("food bowl", "Stainless Steel Food Bowl", "Feeding", 14, ("2 Cups", "4 Cups", "8 Cups")),
        Role("dog food", "Grain Free Dog Food", "Food", 41, ("Chicken, 5 lb", "Salmon, 12 lb", "Lamb, 24 lb")),
        Role("chew toy", "Natural Rubber Chew Toy", "Toys", 12, _SIZES),
        Role("dog treats", "Training Treats", "Treats", 10, ("Peanut Butter", "Duck", "Beef")),
        Role("grooming brush", "Deshedding Brush", "Grooming", 17, ("Short Hair", "Long Hair")),
    )),
    Scenario("aquarium", "Pet Supplies", "setting up a planted aquarium",
             ("Aquanella", "Finley & Co", "Reefwright", "Wasserwelt", "Nautilo"), (
        Role("tank", "Rimless Glass Aquarium", "Aquariums", 92, ("5 Gallon", "10 Gallon", "20 Gallon")),
        Role("filter pump", "Canister Filter", "Filters", 68, ("100 GPH", "200 GPH", "350 GPH")),
        Role("heater", "Submersible Heater", "Heaters", 25, ("50 W", "100 W", "200 W")),
        Role("tank light", "Plant Growth LED Light", "Lighting", 45, ('12"', '18"', '24"')),
        Role("substrate", "Planted Tank Substrate", "Substrates", 23, ("5 lb", "10 lb", "20 lb")),
        Role("test kit", "Freshwater Test Kit", "Water Care", 28, ("100 Tests", "300 Tests")),
    )),
    Scenario("guitar", "Musical Instruments", "learning to play the electric guitar",
             ("Fretwell", "Tonewood Bros", "Silvertune", "Klangberg", "Corduroy"), (
        Role("guitar", "Electric Guitar", "Electric Guitars", 270, ("Sunburst", "Cherry", "Jet Black", "Sea Foam")),
        Role("amplifier", "Practice Amplifier", "Amplifiers", 105, ("10 W", "20 W", "40 W")),
        Role("guitar cable", "Instrument Cable", "Cables", 16, ("6 ft", "10 ft", "20 ft")),
        Role("picks", "Guitar Picks & Holder", "Picks", 8, ("Thin, 12 Pack", "Medium, 12 Pack", "Heavy, 12 Pack")),
        Role("strings", "Nickel Wound Strings", "Strings", 11, ("9-42", "10-46", "11-49")),
        Role("tuner", "Clip-On Tuner", "Tuners", 14, ("Black", "Backlit", "Rechargeable")),
        Role("effects pedal", "Overdrive Pedal", "Effects", 62, ("Mini", "Classic", "Dual Channel")),
    )),
    Scenario("painting", "Arts & Crafts", "watercolor painting",
             ("Huegarden", "Palettina", "Inkwell & Ochre", "Farbenfroh", "Aquarello"), (
        Role("watercolors", "Watercolor Paint Set", "Paints", 27, ("12 Pans", "24 Pans", "36 Pans")),
        Role("brushes", "Round & Flat Brush Set", "Brushes", 19, ("6 Piece", "10 Piece", "15 Piece")),
        Role("paper", "Cold Press Paper Pad", "Paper", 17, ('9 x 12"', '11 x 15"', '5 x 7"')),
        Role("palette", "Folding Palette", "Palettes", 11, ("18 Wells", "33 Wells")),
        Role("easel", "Tabletop Easel", "Easels", 33, ("Beech", "Bamboo")),
        Role("masking fluid", "Masking Fluid & Tape", "Mediums", 12, ("1 oz", "3 oz")),
    )),
    Scenario("woodworking", "Tools & Home Improvement", "building furniture in a small workshop",
             ("Hammerstein", "Oakhart", "Sawyer's Best", "Drillmaster", "Werkbank"), (
        Role("cordless drill", "Cordless Drill", "Power Tools", 110, ("12 V", "18 V", "20 V Max")),
        Role("drill bits", "Titanium Drill Bit Set", "Drill Bits", 25, ("21 Piece", "29 Piece", "60 Piece")),
        Role("circular saw", "Circular Saw", "Saws", 98, ('6.5"', '7.25"')),
        Role("clamps", "Bar Clamps", "Clamps", 29, ('12", 4 Pack', '24", 2 Pack', '36", 2 Pack')),
        Role("sander", "Random Orbit Sander", "Sanders", 62, ("Corded", "Cordless")),
        Role("wood glue", "Waterproof Wood Glue", "Adhesives", 9, ("8 oz", "16 oz", "32 oz")),
        Role("safety glasses", "Safety Glasses & Ear Muffs", "Safety", 18, ("Clear", "Tinted")),
    )),
    Scenario("air travel", "Luggage & Travel", "long flights and city trips",
             ("Wayfarra", "Jetsetter Lane", "Voyagio", "Fernweh", "Terminale"), (
        Role("carry-on", "Hardside Carry-On", "Suitcases", 125, ('20", Graphite', '21", Rose Gold', '22", Teal')),
        Role("packing cubes", "Compression Packing Cubes", "Organizers", 24, ("Set of 4", "Set of 6", "Set of 8")),
        Role("neck pillow", "Memory Foam Neck Pillow", "Comfort", 25, _CLOTH),
        Role("toiletry bag", "Hanging Toiletry Bag", "Toiletry Bags", 22, _CLOTH),
        Role("travel adapter", "Universal Travel Adapter", "Adapters", 21, ("2 USB Ports", "4 USB Ports", "65 W")),
        Role("power bank", "Slim Power Bank", "Power Banks", 31, ("5,000 mAh", "10,000 mAh", "20,000 mAh")),
    )),
)  # fmt: skip
