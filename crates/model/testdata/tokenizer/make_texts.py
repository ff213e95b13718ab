"""Writes torture.txt: what tokenizers get wrong, spelt out so that it can be read.

    python make_texts.py
"""

import pathlib

WORDS = "the quick brown fox"
LINES = [
    # Emoji: skin tones, ZWJ sequences, flags, keycaps, variation selectors, tag sequences.
    "😀 👋🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇨🇳🇺 1️⃣ #️⃣ ❤️ ❤ ☃︎☃️ 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f 🫠🫨🪿",
    "text😀text 😀😀😀 😀 \u200d \ufe0f",
    # Combining marks: composed, decomposed, stacked, alone.
    "café cafe\u0301 Å A\u030a Å \u0301 e\u0301\u0302\u0303\u0304 Z\u0335\u0321\u0348a\u0334\u0315l\u0336\u0322g\u0337o\u0338",
    "ที่ กำ नमस्ते क्षि வணக்கம் 한국어 \u1112\u1161\u11ab ﬁﬂ ĲĳǄ ſ ß ẞ İıI",
    "العربية ١٢٣ עברית שָׁלוֹם \u202eright to left\u202c \u200fmixed 123 abc",
    "你好，世界！「引用」…… 日本語カタカナひらがな ｆｕｌｌｗｉｄｔｈ　ｓｐａｃｅ １２３ 𠀀𪛖 〇〡",
    "Привет Ελληνικά Հայերեն ქართული ᏣᎳᎩ ꙮ ⴰⵎⴰⵣⵉⵖ",
    # Numbers of all kinds.
    "0 1 12 123 1234 12345 123456789 3.14 1,000,000 -1 +2 1e10 0x1F ½ ¾ ² ³⁴ Ⅷ ⅷ ① ⑳ ৪ ௧ 〹 𝟘𝟙 𐄇 1st 2nd v1.2.3 a1b22c333d4444",
    # Contractions and apostrophes.
    "I'm you're he's she'd we'll they've don't I'M YOU'RE HE'S SHE'D WE'LL THEY'VE DON'T 's 't'd 'ſ'ſx 'll'LL'lL ’s '' ''s 'tis rock'n'roll l'été",
    # White space.
    "a b  c   d    e\tf\t\tg \t h\t i \u00a0j\u00a0\u00a0k\u2003l\u3000m\u2028n\u2029o\u0085p\u000bq\u000cr\u1680s\u200bt\u2060u\ufeffv ",
    "  leading",
    "trailing  ",
    " ",
    "\t",
    "    four\n        eight\n\n\n\n  \n \n  after\r\nwindows\r\n\r\nlines\rmac\n\r\n \r\n  x",
    "1 2  3   4 5\n6 \n7\t8",
    " " * 70 + "x" + " " * 33,
    "\n" * 40 + "\t" * 35 + "x",
    "end \n\n\n",
    # Control characters, private use, unassigned, noncharacters, the ends of the planes.
    "".join(map(chr, range(1, 9))) + "".join(map(chr, range(14, 32))) + "\x7f\x80\x9f\xad\x00.",
    "\ue000\uf8ff\ufff9\ufffc\ufffd\ufffe\uffff\U0001ffff\U000f0000\U0010ffff\u0378\u2fe0\U00050005",
    "\ud7ff\u0000\u0000\u07ff\u0800\uffff\U00010000",
    # Symbols.
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ !! ?! ... --- === *** ___ <= >= != == => -> :: || && // /* */ $x @y #z 100% €5 £6 ¥7 ₿ ™ © ® § ¶ † ‡ • ∑∫√∞≈≠ ←→⇒ ♠♣ ░▒▓█ ⠁⠃ 𝕬𝖓𝖞 ⒶⒷ 🄰",
    "http://example.org/a?b=c&d=%20#e user@example.org {\"json\": [1, 2.5, null, \"\\u00e9\"]} <a href='x'>y</a> <table><tr><td>z</td></tr></table> </ul> <h1>",
    # What looks like special tokens, or like their pieces, or like how files spell tokens.
    "<|im_start|>user\nhi<|im_end|><|im_start|> <|im_end|><|im_end <|endoftext|>x<|endoftext|><repo_name><file_sep>",
    "<bos><eos><pad><unk><mask>[multimodal]<start_of_turn>user\nhi<end_of_turn>\n<unused0><unused99><unused>< bos ><<bos>><s><start_of_image>",
    "<|begin_of_text|><|eot_id|><|start_header_id|> [INST] [/INST] <<SYS>>",
    "<0x0A><0x41> \u2581\u2581 \u2581x a\u2581b <0xE2>",
    "Ġthe Ċ âĢĻ ĠĠ Ā",
    # Long runs and long words.
    "a" * 300,
    "ab" * 200,
    "哈" * 150,
    "." * 200,
    "0" * 100,
    "😀" * 60,
    "Donaudampfschifffahrtsgesellschaftskapitän antidisestablishmentarianism " + "x" * 17 + "y" * 19,
    "e" + "\u0301" * 80,
    "CamelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case dotted.name HTTPServer2 iPhone12Pro",
    " ".join([WORDS] * 5).upper() + " " + WORDS.title(),
    "no newline at the end",
]

pathlib.Path(__file__).with_name("torture.txt").write_bytes("\n".join(LINES).encode())
