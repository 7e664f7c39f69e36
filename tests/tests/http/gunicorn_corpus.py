import json, pathlib, re, socket, sys, time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

FOLDER, CORPUS = pathlib.Path("@FOLDER@"), pathlib.Path("@CORPUS@") / "tests" / "requests"
for name in ["gunicorn", "gunicorn.config", "gunicorn.http", "gunicorn.http.errors"]:
    sys.modules[name] = MagicMock()

# Files that gunicorn takes only because an option for old peers is set, or where it knows better than
# a proxy may: refused here, each for the reason given.
VALID_BUT_REFUSED = {
    "005.http": "a fragment is no part of a request target (RFC 9112 §3.2)",
    "024.http": "over the limit of the target that this test sets",
    "025.http": "several transfer codings",
    "025_line.http": "several transfer codings",
    "029.http": "transfer coding identity is gone since RFC 7230",
    "030.http": "transfer coding identity is gone since RFC 7230",
    "rfc9112_smuggle_gzip_chunked_01.http": "several transfer codings",
    "rfc9112_smuggle_te_identity_chunked_01.http": "transfer coding identity is gone since RFC 7230",
    "rfc9112_target_absolute_userinfo_01.http": "user information is an error (RFC 9110 §4.2.4)",
    "028.http": "blank before the colon (option strip_header_spaces)",
    "099.http": "the file's body is shorter than its Content-Length",
    "compat_obs_fold.http": "folded line (option permit_obsolete_folding)",
    "compat_obs_fold_huge.http": "folded line (option permit_obsolete_folding)",
}
# Flows that do not begin with HTTP: they pass unread, as any other protocol does.
NOT_HTTP = {"pp_01.http", "pp_02.http", "pp_04.http", "pp_05.http"}
# gunicorn is told by an option to give another meaning to these.
OTHER_MEANING = {
    "031compat.http": "casefold_http_method: methods are case-sensitive (RFC 9110 §9.1)",
    "040.http": "fields with underscores are dropped by gunicorn, and passed by us",
}
# What gunicorn refuses by its own limits, options and opinions, and RFC 9110 allows: passed as it is,
# one request with the same bytes of meaning.
INVALID_BUT_ALLOWED = {
    "003c.http": "-bl is a method",
    "007.http": "limit of the size of one field", "limit_header_default_01.http": "limit of the size of one field",
    "010.http": "limits set by an option", "011.http": "limits set by an option", "012.http": "limits set by an option",
    "017.http": "limit of the size of one field",
    "019.http": "X-Forwarded- fields that contradict",
    "rfc9112_target_non_ascii_02.http": "UTF-8 as it is in a target: real clients send it, and it frames nothing",
    "040.http": "underscores", "041.http": "two Content-Types frame nothing", "chunked_07.http": "underscores",
}
# These have no end of a head: the flow ends before it is known to be HTTP, or is a PROXY header.
INVALID_NOT_HTTP = {"pp_01.http", "pp_02.http", "pp_03.http"}


def data_of(path):
    data = path.read_bytes()
    data = data.replace(b"\n", b"").replace(b"\\r\\n", b"\r\n")
    data = data.replace(b"\\0", b"\0").replace(b"\\n", b"\n").replace(b"\\t", b"\t")
    return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), data)


def expected_of(path):
    names = {"uri": lambda raw: raw, "cfg": MagicMock()}
    exec(path.with_suffix(".py").read_text(), names)
    found = names["request"]
    found = found if isinstance(found, list) else [found]
    for case in found:
        if isinstance(case["body"], str):
            case["body"] = case["body"].encode("latin-1")
    return found


def exchange(data):
    """Sends bytes, and gives back what came and the port."""
    with socket.create_connection(("any.lab.name", 8081)) as s:
        s.settimeout(2)
        port = s.getsockname()[1]
        s.sendall(data)
        got = b""
        try:
            # Half closed only when nothing more comes: an end too early would abort good requests.
            while more := s.recv(65536):
                got += more
        except TimeoutError:
            s.shutdown(socket.SHUT_WR)
            s.settimeout(6)
            try:
                while more := s.recv(65536):
                    got += more
            except (TimeoutError, ConnectionError):
                pass
        except ConnectionError:
            pass
    for _ in range(50):
        if (FOLDER / f"seen-{port}").exists():
            break
        time.sleep(0.002)
    time.sleep(0.05)
    seen = FOLDER / f"seen-{port}"
    lines = seen.read_text().splitlines() if seen.exists() else []
    raw = FOLDER / f"raw-{port}"
    return got, [json.loads(line) for line in lines], raw.read_bytes() if raw.exists() else b""


def with_host(data, cases):
    """RFC 9112 §3.2 wants a Host in every request of HTTP/1.1; most files have none."""
    if re.search(rb"\r\nhost:", data, re.I) or any(b" HTTP/1.1" in case["body"] for case in cases):
        return data
    return re.sub(rb"^([^\r\n]* HTTP/1\.1\r\n)", rb"\1Host: any.lab.name\r\n", data, flags=re.M)


def meaning(fields):
    """Names without case, and the order of fields with the same name; not the Host that was added."""
    return sorted((n.upper(), v) for n, v in fields if n.upper() != "HOST")


while not (FOLDER / "ready").exists():
    time.sleep(0.01)

def invalid(path):
    data = with_host(data_of(path), [])
    got, seen, raw = exchange(data)
    status = got[9:12].decode("latin-1")
    whole = [one for one in seen if "fault" not in one]
    if path.name in INVALID_NOT_HTTP:
        return "not HTTP", f"{len(whole)} seen" if whole else None
    if path.name in INVALID_BUT_ALLOWED:
        return "allowed", None if len(whole) == 1 else f"{len(whole)} seen"
    if whole:
        return "refused", f"seen by the origin: {raw[:200]!r}; {data[:200]!r}"
    if status not in ("400", "414", "431", "408"):
        return "refused", f"answered {got[:80]!r}; {data[:200]!r}"
    return "refused", None


def valid(path):
    cases = expected_of(path)
    data = with_host(data_of(path), cases)
    got, seen, raw = exchange(data)
    if path.name in VALID_BUT_REFUSED:
        refused = not any("method" in one for one in seen) and got[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 414", b"HTTP/1.1 431")
        return "refused", None if refused else f"should be refused: {got[:80]!r} {raw[:80]!r}"
    if path.name in NOT_HTTP:
        return "not HTTP", None if raw == data else f"changed: {raw!r:.100}"
    if len(seen) != len(cases) or any("fault" in one for one in seen):
        return "valid", f"{len(seen)} of {len(cases)} seen: {seen!r:.300}; {got[:200]!r}; {data[:200]!r}"
    for case, one in zip(cases, seen):
        want = (case["method"], case["uri"], "HTTP/%d.%d" % case["version"], case["body"].decode("latin-1"),
                meaning(case["headers"]), meaning(case.get("trailers", [])))
        have = (one["method"], one["target"], one["version"], one["body"],
                meaning(map(tuple, one["headers"])), meaning(map(tuple, one["trailers"])))
        if want != have and path.name not in OTHER_MEANING:
            return "valid", str([(a, b) for a, b in zip(want, have) if a != b])[:600]
    return "valid", None


counts, faults = Counter(), []
with ThreadPoolExecutor(24) as pool:
    work = [(path, judge) for judge in (invalid, valid) for path in sorted((CORPUS / judge.__name__).glob("*.http"))]
    for (path, judge), (kind, fault) in zip(work, pool.map(lambda one: one[1](one[0]), work)):
        counts[kind] += 1
        if fault:
            faults.append(f"{judge.__name__}/{path.name}: {fault}")
print(dict(counts))
print("\n".join(faults))
if not faults and counts["refused"] > 60 and counts["valid"] > 40:
    print("OK")
