"""Texts that the tests of cleaning and tokenising share, and tests/parity/text_program.cpp, which says what the program
makes of them.

Environment: TEXT_PROGRAM, that program; SURGERY_SOURCE, the sources' folder.
"""
import json
import os
import pathlib
import subprocess

BUILT_IN_PROMPTS = [f"a {size} {colour} {thing} {verb} {place}" for size in ("small", "large") for colour in
                    ("red", "green", "blue", "golden") for thing in ("bird", "car", "teddy bear", "lighthouse", "train")
                    for verb, place in (("moving", "in the snow"), ("resting", "under an umbrella"),
                                        ("spinning", "at sunset, 4K"), ("waiting", "near a café, Van Gogh's style"),
                                        ("falling", "from the sky; cinematic"))]
MULTILINGUAL = [
    "Ein Fuchs läuft über die verschneite Straße – „langsam“, größer als üblich.",
    "Un garçon élève des chèvres près de la forêt ; l'été, à côté d'un château.",
    "El niño pequeño comió una piña en la montaña ¿verdad? ¡Sí, señor!",
    "Uma criança lê às três da manhã; a ação não é lá muito rápida.",
    "Zażółć gęślą jaźń, pies biegnie przez łąkę.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy na břehu řeky.",
    "Árvíztűrő tükörfúrógép, egy őz a hídon.",
    "Küçük bir çocuk güneşli bir günde uçurtma uçuruyor, İstanbul'da.",
    "Žuvys plaukia ežere, o virš jų skrenda gulbė.",
    "Ένας σκύλος τρέχει στην παραλία το ηλιοβασίλεμα.",
    "Рыжая кошка спит на подоконнике, за окном идёт снег.",
    "Київ уночі, річка й ліхтарі, їжак перебігає дорогу.",
    "一只小猫在雪地里奔跑，镜头缓慢推进。电影质感，4K。",
    "夕焼けの海辺を犬が走る、スローモーション。「美しい」",
    "눈 덮인 산 위로 해가 떠오르는 항공 촬영 장면.",
    "قطة صغيرة تركض على الشاطئ عند الغروب.",
    "ילד קטן רץ על החוף בשקיעה, צילום רחפן.",
    "สุนัขวิ่งบนชายหาดตอนพระอาทิตย์ตก",
    "एक छोटा लड़का बारिश में नाच रहा है।",
    "Một chú chó chạy trên bãi biển lúc hoàng hôn, góc quay rộng.",
    "He said “it’s fine” — then left… 20 °C, ½ cup, £5, €3, 10 µm, ©2024, naïve façade.",
    "emoji: 😀 family 👨‍👩‍👧‍👦 flag 🇩🇪 skin 👍🏽 heart ❤️ keycap 5️⃣",
]
WAN_NEGATIVE = pathlib.Path(__file__).parents[2] / "configs/models/wan2.1-negative-prompt.txt"
# Each breaks something in a tokenizer or a cleaner that was not made for it.
HOSTILE = [
    "", " ", " \t\r\n\u3000 ", "line\none\r\ntwo\ttab\u2028three\u2029four\x85five", "\ufeffbyte order mark",
    "，。！？：；（）［］｛｝＂＇／＼＠＃％＆＊＋－＝＜＞～", "ＦＵＬＬ　ＷＩＤＴＨ １２３", "ﾊﾝｶｸ ｶﾅ ﾀﾞﾁﾞ ﾊﾟ ﾋﾞ", "ﬁne ﬂuﬃ ﬆyle Ǆ ŉ Ĳ",
    "e\u0301 combining a\u030a n\u0303 o\u0308\u0304 \u0301alone", "\u1112\u1161\u11ab conjoining jamo", "q\u0307\u0323 q\u0323\u0307",
    "\u202eright to left\u202c \u200fmark \u200djoin\u200c", "zero\u200bwidth\u2060space\ufe0f", "\x00\x01\x02\x07\x08\x0b\x0c\x0e\x1a\x1f\x7f",
    "C1 \x80\x85\x93quoted\x94 \x9d", "\x1b[36;44mblue\x1b[0m plain \x1b[ broken", "a\u00a0no-break\u202fspace\u2007s",
    "</s>", "a </s> b", "<pad> <unk> <s> </s>", "<extra_id_0> x <extra_id_99>", "▁ metaspace ▁▁", "\ufffd lost \ufffd",
    "Tom &amp;amp;amp; Jerry", "&lt;b&gt; &quot;q&quot; &EACUTE;&Eacute; &AMP; &NBSP;x", "&#38;#38; &#x26;amp; &#x3b; &#59 &#0;",
    "<b>&eacute;</b>", "x &eacute;\n<i>\n&eacute;", "AT&T R&D; &unknown; &copy &copyright;", "P&EACUTE;REZ STRA&SZLIG;E &SUP2;",
    "‘single’ “double” ‚low‛ „low‟ ʼapostrophe′", "(c) © ® ™ ℠ № ½ ⅓ ² ₂ Ⅷ ㎏ ㍿ ① ﷺ", "İıŞşĞğ ǅ ẞß ſ", "𝒥𝓸𝓱𝓷 🄰 𠮷野家",
    "Å is a unit", "Ã la mode", "às vezes à la carte", "ÃQUELE ¡HOLA!", "100 Â°C Â£5 Â½", "5â€“6 itâ€™s â€œfineâ€\x9d",
    "â€œ like this â€\ufffd", "Ã¢â‚¬â„¢ twice", "lâ€™Ã©tÃ© Ã  Paris", "voilÃ le travail", "ï¼Œä¸­æ–‡ï¼š", "РџСЂРёРІРµС‚ РјРёСЂ", "вЂњкавычкиВ»",
    "√© ‚Äú Mac ‚Äù", "├⌐ 437 ΓÇÖ", "L\x92\xe9t\xe9", "€ 5 £ 6 ¥ 7 ¢ 8", "Œ Œa œ œu", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "Ù…Ø±Ø\xadØ¨Ø§", "×©×œ×•×\x9d",
    "ð\x9f\x98\x80 ðŸ˜€", "\u00ed\u00a0\u00bd\u00ed\u00b8\u0080 cesu", "\u00c0\u0080 null", "à¤¹à¤¿à¤¨à¥\x8dà¤¦à¥€", "ã\x83\x84 ¯\\_(ツ)_/¯",
    "Ò_Ó ಠ_ಠ ( ͡° ͜ʖ ͡°) Ù_Ù", "x² + y² ≤ z² ± ∞ √2 ≈ 1.41", "├── tree │ └──", "word " * 700, "長" * 3000, "é" * 2000, "Ã©" * 2000,
    "&amp;" * 200, "a" * 5000, "\u0301" * 300, "!?" * 500,
]


def shared(name):
    """The lines of a list of VBench, where it lies beside the sources; else none."""
    source = os.environ.get("SURGERY_SOURCE", pathlib.Path(__file__).parents[2])
    listing = pathlib.Path(source, "../shared/data/vbench", name)
    return [line for line in listing.read_text("utf-8").splitlines() if line.strip()] if listing.exists() else []


def vbench():
    """VBench's prompts, else as many of our own."""
    return shared("all_dimension.txt") or BUILT_IN_PROMPTS


def ask(what, texts, folder=None):
    """What the program makes of `texts`: cleaned, mended ("fix") or token ids; None where it refuses one."""
    command = [os.environ["TEXT_PROGRAM"], what] + ([str(folder)] if folder else [])
    result = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=300, check=True)
    return json.loads(result.stdout)
