"""Computes dyn2raft's digest of a set of entries, as docs/digest.md defines it.

Standard input has one entry a line: the JSON array [key, value], both in
base64. Standard output gets the digest in hexadecimal digits.
"""
import base64
import hashlib
import json
import sys

total = 0
for line in sys.stdin:
    key, value = (base64.b64decode(x or "") for x in json.loads(line))
    total += int.from_bytes(hashlib.sha256(len(key).to_bytes(8, "big") + key + value).digest(), "big")
print("%064x" % (total % 2**256))
