"""The documents of a release: the card, the licence, and Croissant's description."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from horde.release.names import CROISSANT, METADATA, NAME, SHEET, File, Manifest
from horde.rules.columns import COLUMNS, Type
from horde.rules.screening import BY_OPERATOR

FILES, PICTURES = "webp-files", "pictures"
"""What Croissant calls the image files in the shards, and the record set of them."""
LICENSE_URL = "https://creativecommons.org/publicdomain/zero/1.0/"
LICENSE_TEXT = f"""CC0 1.0 Universal

The authors of these images and rows have waived all their rights to them worldwide, as far as the
law allows: {LICENSE_URL}legalcode

Each row names the licence of the model that drew its image, as far as it is known
(model_license). Such a licence may restrict the use of the model, and what it says of its outputs
goes on to hold.
"""
CROISSANT_TYPES = {
    Type.TEXT: "sc:Text",
    Type.INT: "sc:Integer",
    Type.LONG: "sc:Integer",
    Type.FLOAT: "sc:Float",
    Type.BOOL: "sc:Boolean",
}
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""Croissant 1.0's context. ``containedIn`` is left out: with it, images come back empty."""
DESCRIPTION = (
    "Images that people asked a Horde for and agreed to share, with their prompts and all "
    "parameters, drawn by open models. Screened before publication; withdrawn images are removed."
)


def croissant(manifest: Manifest, base_url: str) -> bytes:
    """Return the release as Croissant 1.0 describes it; ``base_url`` ends without a slash."""
    files = manifest.of_images()
    table = manifest.file(METADATA)
    shards = [one for one in files if one.path.endswith(".tar")]
    found = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": NAME,
        "description": DESCRIPTION,
        "license": LICENSE_URL,
        "url": base_url,
        "version": f"{manifest.release.replace('-', '.', 2)}",
        "datePublished": manifest.released_at[:10],
        "citeAs": f"{NAME}, release {manifest.release}",
        "isLiveDataset": True,
        "distribution": [
            *([_file_object(table, base_url, METADATA, "application/x-parquet")] if table else []),
            *(_file_object(one, base_url, _id(one.path), "application/x-tar") for one in shards),
            *([_file_set([_id(one.path) for one in shards])] if shards else []),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": "One row for each image.",
                "key": {"@id": "images/id"},
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"images/{column.name}",
                        "name": column.name,
                        "description": f"{column.meaning}; from {column.source}",
                        "dataType": CROISSANT_TYPES[column.type],
                        "source": {
                            "fileObject": {"@id": METADATA},
                            "extract": {"column": column.name},
                        },
                    }
                    for column in COLUMNS
                ],
            },
            *([_PICTURES] if shards else []),
        ],
    }
    return json.dumps(found, indent=1).encode()


def _id(path: str) -> str:
    return path.rpartition("/")[2]


def _file_set(shards: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": FILES,
        "name": FILES,
        "description": "The image files in the shards.",
        "containedIn": [{"@id": name} for name in shards],
        "encodingFormat": "image/webp",
        "includes": "*.webp",
    }


def _file_object(file: File, base_url: str, name: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": f"{base_url}/{file.path}",
        "contentSize": f"{file.bytes} B",
        "encodingFormat": kind,
        "sha256": file.sha256,
    }


def _of_files(name: str, kind: str, extract: str, meaning: str, **more: Any) -> dict[str, Any]:
    source = {"fileSet": {"@id": FILES}, "extract": {"fileProperty": extract}, **more}
    return {
        "@type": "cr:Field",
        "@id": f"{PICTURES}/{name}",
        "name": name,
        "description": meaning,
        "dataType": kind,
        "source": source,
    }


_PICTURES: dict[str, Any] = {
    "@type": "cr:RecordSet",
    "@id": PICTURES,
    "name": PICTURES,
    "description": "One picture for each image, out of the shards; its id is that of its row.",
    "key": {"@id": f"{PICTURES}/id"},
    "field": [
        _of_files(
            "id",
            "sc:Text",
            "filename",
            "the id of the image",
            transform={"regex": r"^(.+)\.webp$"},
        ),
        _of_files("content", "sc:ImageObject", "content", "the picture"),
    ],
}
FRONT = """---
license: cc0-1.0
pretty_name: Horde Commons
task_categories:
- text-to-image
tags:
- webdataset
- synthetic
size_categories:
- {size}
configs:
- config_name: default
  data_files: images/**/*.tar
---
"""
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
)


def card(manifest: Manifest, statistics: Mapping[str, Any], *, sheet: bool) -> bytes:
    """Return the data set's card: what is in it, how it is loaded, and what its columns mean."""
    images = manifest.images
    size = next((name for bound, name in SIZES if images < bound), "100M<n<1B")
    parts = [
        FRONT.format(size=size),
        "# Horde Commons",
        DESCRIPTION,
        f"![Some of the images]({SHEET})" if sheet else "",
        _summary(manifest, statistics),
        _facts(manifest, statistics),
        _LOADING,
        "## Columns\n\nThe same names are in `metadata.parquet`, in the parquet file of each part "
        "and, but for the last five, in the JSON beside each image. None but `aesthetic_score` is "
        "ever null.\n\n"
        + _table(
            ("column", "type", "meaning", "from"),
            [(f"`{one.name}`", one.type.lower(), one.meaning, one.source) for one in COLUMNS],
        ),
        _ORIGIN,
    ]
    return ("\n\n".join(part for part in parts if part) + "\n").encode()


def _summary(manifest: Manifest, statistics: Mapping[str, Any]) -> str:
    if not manifest.images:
        return f"Release {manifest.release} has no images."
    days = f"of {statistics['first']} to {statistics['last']}"
    size = _size(statistics["bytes"])
    return f"Release {manifest.release}: {manifest.images:,} images {days}, {size}."


def _facts(manifest: Manifest, statistics: Mapping[str, Any]) -> str:
    kept = ", ".join(f"{count:,} for {name}" for name, count in manifest.kept_back.items())
    rows = [
        ("images", f"{manifest.images:,}"),
        ("kept back so far", kept or "none"),
        ("removed so far", f"{manifest.removed:,}"),
        ("median prompt", f"{statistics['prompt_length'] or 0:.0f} characters"),
        ("median NSFW score", f"{statistics['nsfw_score'] or 0:.4f}"),
        *(
            (name.replace("_", " "), _counted(statistics[name]))
            for name in ("models", "sizes", "consent", "drawn_by")
        ),
    ]
    return "## Statistics\n\n" + _table(("", ""), rows)


def _counted(pairs: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{_quoted(name)} ({images:,})" for name, images in pairs) or "none"


def _quoted(name: str) -> str:
    """Return a name as code: who may name a model in a request could else write into the card."""
    return f"`{' '.join(name.replace('`', chr(39)).split())[:100]}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _size(count: int) -> str:
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.0f} kB"


_LOADING = """## Loading

```python
from datasets import load_dataset

images = load_dataset(".", split="train", streaming=True)  # webp, json, txt
```

```python
import duckdb

duckdb.sql("SELECT model, count(*) FROM 'metadata/**/*.parquet' GROUP BY model")
```

`manifest.json` names every file of a release with its SHA-256, and is written last. `removed/` has
the images that were taken out since: whoever keeps a copy applies it with each release
(`horde-dataset apply-removed`)."""
_ORIGIN = f"""## Where the images come from

Each image was asked for over an open API, by an account that chose to share it (`request-flag`) or
anonymously, which is always shared and said so (`anonymous-default`). Images made from a source
image are never shared. No row names a person: requests and accounts are keyed hashes, with a new
one each year for an account.

Every image was held for at least a day and screened: by a detector of nudity, by words in the
prompt and by lists of hashes. What is kept back is counted above; what the operator released after
looking at it is marked `{BY_OPERATOR}` in `screened_by`. The detector was trained on photographs of
2016. It is weak on drawings and says nothing about anyone's age. Prompts may hold what people
typed, including names.

`{CROISSANT}` describes the tables and the pictures by Croissant 1.0."""
