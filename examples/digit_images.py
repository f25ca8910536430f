"""Write some of the digit scans that `plusx train` holds out as PNG files, named after what they show.

    python examples/digit_images.py demo/images [COUNT]

They are real images that the network never saw in training (with the recipe's own split), to try `plusx predict` on.
"""

import sys
from pathlib import Path

from PIL import Image

from plusx.data import open_data
from plusx.recipe import preset


def write_images(folder: Path, count: int = 10) -> list[Path]:
    """`count` files such as 7-held-out-12.png, the classes taking turns."""
    split = preset("digits").split
    _, held_out, _ = open_data("digits").split(split.held_out, split.seed)
    folder.mkdir(parents=True, exist_ok=True)
    assert held_out.held is not None
    by_class = [[i for i, label in enumerate(held_out.labels) if label == digit] for digit in range(10)]
    turns = [(by_class[n % 10][n // 10 % len(by_class[n % 10])], n % 10) for n in range(count)]
    files = []
    for index, digit in turns:
        files.append(folder / f"{digit}-held-out-{held_out.keys[index]}.png")
        Image.fromarray(held_out.held[index, :, :, 0]).save(files[-1])
    return files


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/digit_images.py FOLDER [COUNT]")
    for file in write_images(Path(sys.argv[1]), *map(int, sys.argv[2:])):
        print(file)
