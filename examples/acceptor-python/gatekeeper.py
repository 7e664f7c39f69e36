"""An acceptor in a Lambda function: who may open which flow.

Handler: gatekeeper.handler. The question and the answer are described in docs/acceptors.md.
"""

import ipaddress

# Hosts that may not open anything, and what everyone may not reach.
QUARANTINE = ipaddress.ip_network("10.66.0.0/16")
MAIL = {25, 465, 587}


def handler(event, context):
    source, destination = event["Source"], event["Destination"]
    if ipaddress.ip_address(source["IpAddress"]) in QUARANTINE:
        # The answer depends on the source alone: one question settles all flows of the host.
        return {"action": "deny", "reason": "the host is in quarantine", "ttl": 60, "cacheKey": ["source"]}
    if destination.get("Port") in MAIL:
        return {"action": "deny", "reason": f"port {destination['Port']} is closed for you"}
    # What EC2 knows of the host, if [ec2] is configured and the host is known.
    tags = source.get("EC2", {}).get("Tags", {})
    return {"action": "allow", "context": {"team": tags.get("team", "unknown")}, "ttl": 300}
