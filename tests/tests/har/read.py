"""Reads all archives below a folder with haralyzer and prints their entries as one JSON list.

What haralyzer makes of an entry is compared with what the archive says.
"""
import gzip, json, pathlib, sys
from haralyzer import HarParser

entries = []
for path in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
    if not path.is_file() or path.name.startswith("."):
        continue
    if path.suffix == ".gz":
        data = gzip.decompress(path.read_bytes())
    elif path.suffix == ".zst":
        continue
    else:
        data = path.read_bytes()
    archive = json.loads(data)
    parser = HarParser(archive)
    pages = [entry for page in parser.pages for entry in page.entries]
    assert len(pages) == len(archive["log"]["entries"]), path
    for entry, raw in zip(pages, archive["log"]["entries"]):
        assert entry.request.method == raw["request"]["method"]
        assert entry.request.url == raw["request"]["url"]
        assert entry.response.status == raw["response"]["status"]
        assert entry.startTime.tzinfo is not None
        raw["file"] = str(path)
        entries.append(raw)
json.dump(entries, sys.stdout)
