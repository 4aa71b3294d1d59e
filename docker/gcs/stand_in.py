"""Google Cloud Storage on port 4443 with the bucket ``taxi-lake``, in memory: for trying a bucket offline."""

from __future__ import annotations

from http.server import ThreadingHTTPServer

from stand_ins.gcs import Gcs

if __name__ == "__main__":
    handler = Gcs("taxi-lake")._server.RequestHandlerClass
    with ThreadingHTTPServer(("", 4443), handler) as server:
        server.serve_forever()
