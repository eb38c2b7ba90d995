"""Column names of published edit data sets, and of tables that people make themselves.

Names are from the sets' own files and loaders; where several sets share columns, they share a line.
The licence is the set's own and counts where the recipe names none. It is claimed on what the set
alone has; plain names such as `source_image` say how to read a table, not whose it is.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

UNKNOWN = "LicenseRef-unknown"


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what.

    `contexts`, `target`: pictures (a path, bytes, or a list of either); a context after the first
    may be null. `inverse` is the instruction back, `chain` ties turns of one conversation together.
    A target that is no file of the set is at the address below `elsewhere`; where `alone` is set,
    rows that share a target are wrong, all of them. `unpaired` says why no row is a pair.
    `turns`: a row is a whole conversation (see `conversations`). `named`: a table's name is the
    kind of its edits. The licence is the set's where a table has all columns of `only`, which no
    other set has, and lies at a path that fits `where`; one of the two is there where a licence is.
    """

    name: str
    contexts: tuple[str, ...]
    target: str
    instruction: str
    inverse: str = ""
    kind: str = ""
    chain: str = ""
    target_caption: str = ""
    context_caption: str = ""
    licence: str = UNKNOWN
    only: tuple[str, ...] = ()
    where: str = ""
    elsewhere: str = ""
    alone: bool = False
    turns: bool = False
    named: bool = False
    unpaired: str = ""

    def fits(self, columns: Collection[str]) -> bool:
        """Whether a table has the columns without which it is not this set."""
        needed = {*self.contexts[:1], self.target, self.instruction, self.kind or self.target}
        needed |= {name for name in (self.inverse, self.chain) if name}
        return needed <= set(columns)

    def at(self, columns: Collection[str], path: Path) -> "Columns":
        """These columns in a table at `path`: with the licence, or with an unknown one."""
        told = set(self.only) <= set(columns)
        placed = re.search(self.where, path.as_posix()) is not None
        return self if told and placed else replace(self, licence=UNKNOWN)


_PICO_BANANA = "https://ml-site.cdn-apple.com/datasets/pico-banana-300k/nb/"

# The more columns a set is told by, the earlier it stands.
KNOWN: tuple[Columns, ...] = (
    Columns(
        "HQ-Edit",
        ("input_image",),
        "output_image",
        "edit",
        inverse="inverse_edit",
        target_caption="output",
        context_caption="input",
        licence="CC-BY-NC-4.0",
        only=("inverse_edit", "input", "output"),
    ),
    Columns(
        "MagicBrush",
        ("source_img",),
        "target_img",
        "instruction",
        chain="img_id",
        licence="CC-BY-4.0",
        only=("turn_index", "mask_img"),
    ),
    Columns(
        "OmniEdit",
        ("src_img",),
        "edited_img",
        "edited_prompt_list",
        kind="task",
        licence="MIT",
        only=("omni_edit_id",),
    ),
    Columns(
        "AnyEdit",
        ("image_file", "visual_input"),
        "edited_file",
        "edit_instruction",
        kind="edit_type",
        target_caption="output",
        context_caption="input",
        licence="CC-BY-4.0",
        only=("visual_input",),
    ),
    Columns(
        "AnyEdit (its own JSON)",
        ("image_file", "visual_input"),
        "edited_file",
        "edit",
        kind="edit_type",
        target_caption="output",
        context_caption="input",
        licence="CC-BY-4.0",
        only=("visual_input",),
    ),
    *(
        Columns(
            "Pico-Banana",
            (before,),
            "output_image",
            "text",
            kind="edit_type",
            licence="CC-BY-NC-ND-4.0",
            only=("open_image_input_url",),
            elsewhere=_PICO_BANANA,
            alone=True,
        )
        for before in ("local_input_image", "open_image_input_url")
    ),
    Columns(
        "SEED-Data-Edit, several turns",
        ("source_image",),
        "edit_image_1",
        "instruction_1",
        licence="CC-BY-NC-4.0",
        where=r"/multi_turn_editing/",
        turns=True,
    ),
    Columns(
        "Pico-Banana, several turns",
        ("files",),
        "files",
        "metadata_edit_turn_prompts",
        licence="CC-BY-NC-ND-4.0",
        only=("files", "metadata_edit_turn_prompts"),
        elsewhere=_PICO_BANANA,
        turns=True,
    ),
    Columns(
        "HumanEdit",
        ("INPUT_IMG",),
        "OUTPUT_IMG",
        "EDITING_INSTRUCTION",
        kind="EDITING_TYPE",
        target_caption="OUTPUT_DESCRIPTION",
        licence="CC-BY-4.0",
        only=("CORE", "MASK_IMG", "EDITING_INSTRUCTION"),
    ),
    Columns(  # ShareGPT-4o-Image has its columns, and text_and_image_to_image.json
        "OpenGPT-4o-Image",
        ("input_image",),
        "output_image",
        "input_prompt",
        licence="Apache-2.0",
        only=("input_prompt",),
        where=r"/editing\.json$",
    ),
    Columns("X2I2", ("input_images",), "output_image", "instruction", kind="task_type"),
    Columns("ImgEdit", ("input_images",), "output_images", "prompt", named=True),
    Columns("ImgEdit, several turns", ("data",), "data", "data", turns=True),
    Columns("GPT-Image-Edit", ("input",), "output", "instruction", kind="task"),
    Columns(
        "UltraEdit",
        ("source_image",),
        "edited_image",
        "edit_prompt",
        target_caption="target_caption",
        context_caption="source_caption",
        licence="CC-BY-4.0",
        only=("clip_sim_source", "clip_sim_target", "dinov2_sim"),
    ),
    Columns(
        "ScaleEdit-12M",
        ("source_image",),
        "edited_image",
        "edit_instruction",
        kind="edit_task",
        licence="MIT",
        where=r"/\d+\.\d+_(\w+)/\1_\d+\.parquet$",  # 1.1_style_transfer/style_transfer_0000.parquet
    ),
    Columns("NHR-Edit", ("source_image",), "edited_image", "edit_instruction"),
    Columns(
        "InstructPix2Pix",
        ("original_image",),
        "edited_image",
        "edit_prompt",
        target_caption="edited_prompt",
        context_caption="original_prompt",
    ),
    Columns("InstructPix2Pix, thousand samples", ("input_image",), "edited_image", "edit_prompt"),
)

# Names in tables of one's own, the most telling first.
_CONTEXT = """
    context context_image source_image source_img source input_image input_images input_img input
    before before_image control control_image conditioning_image original_image original
    image_before src_img src image_0 input_image_file_name input_file_name source_file_name
"""
_TARGET = """
    target_image target_img target edited_image edited_img edited output_image output_images
    output_img output after after_image result image_after tgt_img tgt image_1
    edited_image_file_name output_file_name target_file_name edited_file_name image file_name
"""
# Names of columns of addresses, in lists of them. A page's address ("source_url") is no picture's.
_CONTEXT_URL = """
    before_url before_image_url input_url input_image_url source_image_url context_url
    context_image_url control_url control_image_url original_image_url open_image_input_url
"""
_TARGET_URL = """
    after_url after_image_url target_url target_image_url output_url output_image_url edited_url
    edited_image_url result_url image_url img_url image_link url link
"""
_INSTRUCTION = (
    "instruction edit_instruction edit_prompt edit instruction_text prompt prompt_en text caption"
)
_KIND = "edit_type edit_task edit_subtask"
# SEED-Data-Edit's single turns have plain names, so only the place of a table tells the set.
_SEED = ("source_image", "target_image", "instruction")
_SEED_PLACE = r"/(?:real|auto)_editing/annotations[^/]*/"
# Columns that only a table of edits has. Without the pictures before, its texts are no captions.
_OF_EDITS = re.compile(
    r"instruct|^edit$|^edited|(?:^|_)edit(?:ed|ing)?_(?:prompt|text|type|task|subtask|category|img|"
    r"image|file|rewrite)|^after(?:$|_)"
)
_ANY_PICTURE = frozenset(
    {"image", "file_name", "image_url", "img_url", "image_link", "url", "link"}
)
_OUR_EXPORT = frozenset({"pair_id", "relation_class"})  # an instruction without context: a caption


def columns_of(
    names: Sequence[str], pictures: Collection[str], *, addresses: bool = False
) -> Columns | None:
    """What a table's columns are, by its set if we know it, else by their names; None if neither.

    Args:
        names: all columns.
        pictures: those whose values may be pictures.
        addresses: whether columns that are named as addresses are pictures too.
    """
    for known in KNOWN:
        if known.fits(names) and {known.contexts[0], known.target} <= set(pictures):
            return known
    lower: Mapping[str, str] = {name.lower(): name for name in names}
    shown = {name.lower() for name in pictures}
    after, before = (
        (_TARGET, _CONTEXT)
        if not addresses
        else (f"{_TARGET} {_TARGET_URL}", f"{_CONTEXT} {_CONTEXT_URL}")
    )
    target = _first(after, lower, shown)
    context = _first(before, lower, shown - {target.lower()})
    text = _first(_INSTRUCTION, lower, set(lower) - shown)
    # in a table of few rows every instruction may end in a file's name
    text = text or _first(_INSTRUCTION, lower, set(lower) - {target.lower(), context.lower()})
    if not text or not target:
        return None
    others = shown - {target.lower()}
    if not context and _speaks_of_edits(lower, target.lower(), others):
        # where a picture is from is told of any, but a picture before only of an edit
        context = _first(_CONTEXT_URL, lower, others)
        if not context:
            why = f"'{target}' and '{text}' are of an edit, and no column has the picture before"
            return Columns("a table of edits", (), target, text, unpaired=why)
    more = tuple(
        lower[name]
        for name in sorted(shown)
        if context and name.startswith(("reference", "ref_", "control_2", "context_2"))
    )
    kind = _first(_KIND, lower, set(lower) - shown) if context else ""
    own = "a table of pairs" if context else "a table of captioned pictures"
    found = Columns(own, (context, *more) if context else (), target, text, kind=kind)
    if (context, target, text) == _SEED:
        return replace(found, licence="CC-BY-NC-4.0", where=_SEED_PLACE)
    return found


def _speaks_of_edits(names: Collection[str], target: str, others: Collection[str]) -> bool:
    """Whether columns (lower case) are of edits: by a name, or by pictures that no name explains.

    `target` is the picture that was found, `others` are further ones.
    """
    if set(names) >= _OUR_EXPORT:
        return False
    named = any(_OF_EDITS.search(name) for name in names)
    told = set(_CONTEXT_URL.split())  # any other address may be where the picture is from
    unexplained = any(name in told or not name.endswith(("url", "link")) for name in others)
    return named or (target not in _ANY_PICTURE and unexplained)


def _first(wanted: str, names: Mapping[str, str], among: Collection[str]) -> str:
    """The first wanted name that is `among` the columns (lower case), as the table writes it."""
    return next((names[name] for name in wanted.split() if name in among), "")
