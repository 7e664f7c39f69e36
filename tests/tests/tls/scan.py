"""Scans one server twice, through flowdog (port 9443) and past it (9444), and names each finding
that is worse through flowdog. Prints how many findings were compared."""

import json, subprocess, sys

SCANS = ["--" + scan for scan in (
    "certinfo compression early_data elliptic_curves ems fallback heartbleed openssl_ccs reneg robot"
    " sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3").split()]
SCANNER, FOLDER = sys.argv[1], sys.argv[2]

def scan(port):
    out = f"{FOLDER}/{port}.json"
    return out, subprocess.Popen([SCANNER, f"any.lab.name:{port}", "--json_out", out] + SCANS,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

scans = [scan(port) for port in (9443, 9444)]
for _, process in scans:
    process.wait(120)
through, past = (json.load(open(out))["server_scan_results"][0]["scan_result"] for out, _ in scans)
compared, worse = 0, []

def compare(what, ours, theirs, is_worse):
    global compared
    compared += 1
    if is_worse(ours, theirs):
        worse.append(f"{what}: {ours} instead of {theirs}")

def result(scan, name):
    assert scan[name]["status"] == "COMPLETED", (name, scan[name])
    return scan[name]["result"]

def more(ours, theirs):
    return not set(ours) <= set(theirs)

for name in through:
    if name.endswith("_cipher_suites"):
        suites = [[s["cipher_suite"]["name"] for s in result(side, name)["accepted_cipher_suites"]] for side in (through, past)]
        compare(name, *suites, more)
        # Better is allowed, nothing at all would be a broken scan.
        if name in ("tls_1_2_cipher_suites", "tls_1_3_cipher_suites"):
            assert suites[0], name

curves = [[c["name"] for c in result(side, "elliptic_curves")["supported_curves"]] for side in (through, past)]
compare("curves", *curves, more)

for name, field, good in [
    ("tls_compression", "supports_compression", False),
    ("tls_1_3_early_data", "supports_early_data", False),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False),
    ("heartbleed", "is_vulnerable_to_heartbleed", False),
    ("tls_fallback_scsv", "supports_fallback_scsv", True),
    ("session_renegotiation", "supports_secure_renegotiation", True),
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False),
    ("tls_extended_master_secret", "supports_ems_extension", True),
]:
    ours, theirs = (result(side, name)[field] for side in (through, past))
    compare(field, ours, theirs, lambda ours, theirs: ours != good and theirs == good)
robot = [result(side, "robot")["robot_result"] for side in (through, past)]
compare("robot", *robot, lambda ours, theirs: ours != theirs and not ours.startswith("NOT_VULNERABLE"))

leafs = [result(side, "certificate_info")["certificate_deployments"] for side in (through, past)]
for field, good in [
    ("received_chain_has_valid_order", True),
    ("received_chain_contains_anchor_certificate", False),
    ("verified_chain_has_sha1_signature", False),
]:
    ours, theirs = (deployments[0][field] for deployments in leafs)
    compare(field, ours, theirs, lambda ours, theirs: ours not in (good, None) and theirs == good)
names = [d[0]["received_certificate_chain"][0]["subject_alternative_name"]["dns_names"] for d in leafs]
compare("names", *names, more)
issuers = [d[0]["received_certificate_chain"][0]["issuer"]["rfc4514_string"] for d in leafs]
assert issuers[0].startswith("CN=flowdog intermediate") and issuers[1] == "CN=World", issuers

for finding in worse:
    print("worse:", finding)
print("compared", compared)
sys.exit(bool(worse))
