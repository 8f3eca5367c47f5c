"""Which members of a tar are one sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unimo.corpus.bad_samples import Notes
from unimo.corpus.finding import IMAGE_SUFFIXES, Kind
from unimo.errors import DataError
from unimo.formats.tar import Member, Oddity

SLOTS = {"pairs": ("image", "json", "txt"), "images": ("image", "json")}
Parts = dict[str, Member]  # slot -> member
_Group = dict[str, Parts]  # middle of the ending, "" for a plain one -> parts


class TarMembers:
    """Members sharing a name up to its first dot are one sample (WebDataset); what follows is the ending.

    An ending of several parts, as in shot1.v1.jpg, tells variants of a sample apart. Beside a plain image of the same
    key they are more than is read, and passed over. Where there is none, each variant with an image is a sample of its
    own, called shot1.v1, if it has a caption of its own (shot1.v1.txt); a single image takes the plain caption of its
    key; several that would share it are bad, for nobody knows whose it is.
    """

    def __init__(self, kind: Kind, notes: Notes):
        self.kind, self.notes = kind, notes
        self.groups: dict[tuple[str, int], _Group] = {}
        self.copies: dict[str, int] = {}  # how often a key began anew
        self.imaged: set[str] = set()  # keys with a plain image

    def take(self, entry: Member | Oddity) -> None:
        folder, _, name = entry.name.rpartition("/")
        stem, _, ending = name.partition(".")
        middle, _, last = ending.rpartition(".")
        slot = "image" if f".{last.lower()}" in IMAGE_SUFFIXES else last.lower()
        if isinstance(entry, Oddity):
            if entry.kind != "folder":
                self.notes.tell("extra members: links and other things that are no files", entry.name)
        elif not stem:
            self.notes.tell("extra members: hidden names", entry.name)
        elif slot not in SLOTS[self.kind]:
            ends = f"ending in .{last.lower()[:12]}" if last else "without an ending"
            self.notes.tell(f"extra members: {ends}, not read as {self.kind}", entry.name)
        else:
            key = f"{folder}/{stem}" if folder else stem
            copy = self.copies.get(key, 0)
            if slot in self.groups.get((key, copy), {}).get(middle, {}):
                copy = self.copies[key] = copy + 1
            if slot == "image" and not middle:
                self.imaged.add(key)
            self.groups.setdefault((key, copy), {}).setdefault(middle, {})[slot] = entry

    def samples(self, shard: str) -> Iterator[tuple[str, Parts | DataError]]:
        """(key, members by slot), or the reason why nobody can tell which belong together."""
        for (key, _), group in self.groups.items():
            plain = group.pop("", {})
            images = [middle for middle, parts in group.items() if "image" in parts]
            if key in self.imaged:
                self._pass_over(group.values(), "variants of a key that has a plain image")
                if plain:
                    yield key, plain
            elif len(images) == 1:
                own = group.pop(images[0])
                self._pass_over(group.values(), "variants without an image")
                yield (key if plain else f"{key}.{images[0]}"), {**plain, **own}
            elif images:
                yield from self._several(shard, key, plain, group)
            else:  # bad ones, each by its name
                yield from ((f"{key}.{middle}", parts) for middle, parts in group.items())
                if plain:
                    yield key, plain

    def _several(self, shard: str, key: str, plain: Parts, group: _Group) -> Iterator[tuple[str, Parts | DataError]]:
        shared = False
        for middle, parts in group.items():
            if "image" not in parts:
                self._pass_over([parts], "variants without an image")
            elif plain and self.kind == "pairs" and not {"txt", "json"} & set(parts):
                shared = True
                error = DataError(
                    "several images share one caption",
                    where=f"{shard}, member {parts['image'].name}",
                    got=", ".join(sorted(part.name for part in plain.values())),
                    expected=f"one image of the key {key}, or a caption for each, as {key}.{middle}.txt",
                    do="write the shard with a key for each image",
                )
                yield f"{key}.{middle}", error
            else:
                yield f"{key}.{middle}", parts
        if not shared:
            self._pass_over([plain], "what belongs to several images of a key")

    def _pass_over(self, those: Iterable[Parts], why: str) -> None:
        for parts in those:
            for member in parts.values():
                self.notes.tell(f"extra members: {why}", member.name)
