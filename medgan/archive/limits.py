"""Caps on hostile or broken input, in one place; the first block of tests in tests/unit/archive holds them."""

from __future__ import annotations

from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30

# One DICOM file. Depth, element count and the inflate cap are the project's; the largest real
# objects (tomosynthesis, whole-heart CT) stay below 1 GiB decoded.
MAX_INSTANCE_BYTES: Final = GIB
MAX_DECODED_BYTES: Final = GIB
MAX_DEPTH: Final = 64
MAX_ELEMENTS_PER_DATASET: Final = 50_000
MAX_ELEMENTS: Final = 1_000_000
MAX_FRAMES: Final = 1 << 16
MAX_VALUE_BYTES: Final = 64 * MIB  # of one element that is not pixel data
MAX_INFLATED_BYTES: Final = 512 * MIB
MAX_INFLATE_RATIO: Final = 200
INFLATE_RATIO_FLOOR_BYTES: Final = 64 * MIB  # below this a ratio harms nobody

# One zip, tar or folder. A blank radiograph deflates 1,000:1, so a ratio counts over the whole archive only.
MAX_MEMBERS: Final = 500_000
MAX_ARCHIVE_BYTES: Final = 8 << 40  # unpacked
MAX_MEMBER_NAME_BYTES: Final = 4096
MAX_TAR_HEADER_BYTES: Final = MIB  # of one member, long names and extended headers included
MAX_ARCHIVE_RATIO: Final = 200
ARCHIVE_RATIO_FLOOR_BYTES: Final = 64 * MIB
MAX_NESTED_ARCHIVES: Final = 1  # a zip inside a zip is read, a third level is refused
MAX_NESTED_BYTES: Final = 64 * GIB
MAX_FOLDER_DEPTH: Final = 128
MAX_LANDED: Final = 10_000_000  # files of a remote source, all nights together: we wrote them, nobody planted them

# Label tables.
MAX_LABEL_BYTES: Final = 64 * MIB
MAX_LABEL_ROWS: Final = 5_000_000

# A decoder in a child process.
DECODE_CPU_SECONDS: Final = 20
DECODE_MEMORY_BYTES: Final = 1536 * MIB
