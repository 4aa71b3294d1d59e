"""Write the bill of materials of a lock file, as CycloneDX 1.5: ``python3 docker/bill_of_materials.py LOCK``."""

import json
import re
import sys
from pathlib import Path


def describe(lock: str) -> dict[str, object]:
    """Return the bill of materials: each package with its version, its package URL and its allowed digests."""
    packages = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^ ;\n]+)(.*?)(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    components = [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "externalReferences": [
                {
                    "type": "distribution",
                    "url": f"pkg:pypi/{name}@{version}",
                    "hashes": [{"alg": "SHA-256", "content": each} for each in re.findall(r"sha256:(\w{64})", rest)],
                }
            ],
        }
        for name, version, rest in packages
    ]
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe(Path(sys.argv[1]).read_text()), indent=2) + "\n")
