"""A server on this host for one story, until it is closed."""

import http.server
import threading
import urllib.error


class Loopback(http.server.ThreadingHTTPServer):
    """Answers each GET with the bytes that `answer` has for its path, or with the error that it raises."""

    daemon_threads = True

    def __init__(self, answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                try:
                    body = answer(self.path)
                except urllib.error.HTTPError as error:
                    self.send_error(error.code)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()
