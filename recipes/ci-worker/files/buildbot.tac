# The worker, as buildbot-worker(1) loads it. Settings come from ci-worker-start, the password from there or from systemd.
import os
import sys

from twisted.application import service
from twisted.logger import ILogObserver, textFileLogObserver

from report import Worker

# Popped: the environment is handed on to jobs.
host = os.environ.pop('CI_MASTER_HOST')
port = int(os.environ.pop('CI_MASTER_PORT'))
name = os.environ.pop('CI_WORKER_NAME')
password = os.path.join(os.environ.pop('RUNTIME_DIRECTORY'), 'password')
given = os.path.join(os.environ.pop('CREDENTIALS_DIRECTORY'), 'password')
with open(password if os.path.exists(password) else given) as file:
    secret = file.read().strip()
if os.path.exists(password):
    os.unlink(password)

application = service.Application('buildbot-worker')
# To the journal, not to a file that grows.
application.setComponent(ILogObserver, textFileLogObserver(sys.stdout))

worker = Worker(host, port, name, secret, os.path.abspath(os.path.dirname(__file__)),
                keepalive=600, umask=0o022, maxdelay=60)
worker.setServiceParent(application)
