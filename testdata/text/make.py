"""Makes the goldens in this folder: Chinese words by jieba, and normal forms by Python.

    python make.py

Needs `jieba` (0.42.1 was used; its dictionary is MIT).

- `words.txt`: those entries of jieba's dictionary that occur in the sentences, and some thousand others: word, frequency;
- `segmented.json`: sentences written for this file, and their words by jieba with that dictionary, without its model for
  unknown words;
- `normal.json`: texts with their forms NFC, NFD, NFKC and NFKD.
"""

import json
import unicodedata
from pathlib import Path

import jieba

SENTENCES = [
    "我们把一个大模型压缩到很小的设备上。",
    "研究生命的起源是科学家的工作。",
    "南京市长江大桥今天早上开放了！",
    "小明硕士毕业于中国科学院计算所，后在日本京都大学深造。",
    "温度传感器每五分钟测量一次，数据保存在本地。",
    "他说的确实在理，结婚的和尚未结婚的都同意。",
    "这台机器的振动太大，请检查轴承。",
    "乒乓球拍卖完了。",
]
TEXTS = ["é", "e\u0301", "ﬁne ½ ①", "Ａｂｃ　１２３", "한글", "\u1112\u1161\u11ab", "Å Å", "ｶﾞ", "q\u0323\u0307 q\u0307\u0323", "㍿ ℡", ""]


def main():
    folder = Path(__file__).parent
    whole = {}
    with jieba.get_dict_file() as file:
        for line in file:
            word, frequency, *_ = line.decode().split(" ")
            whole[word] = int(frequency)
    text = "\n".join(SENTENCES)
    some = sorted(whole, key=lambda word: -whole[word])[:3000]
    chosen = sorted(word for word in whole if word in text or word in some)
    chosen = sorted(set(chosen) | set(some))
    (folder / "words.txt").write_text("".join(f"{word} {whole[word]}\n" for word in chosen), "utf-8")
    tokenizer = jieba.Tokenizer(str(folder / "words.txt"))
    segmented = []
    for sentence in SENTENCES:
        words = [word for word in tokenizer.cut(sentence, HMM=False) if word.isalnum()]
        segmented.append({"text": sentence, "words": words})
    dump = lambda name, value: (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n", "utf-8")
    dump("segmented.json", segmented)
    dump("normal.json", [[text] + [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")] for text in TEXTS])


if __name__ == "__main__":
    main()
