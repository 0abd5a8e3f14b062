"""What piaas-worker, the agent of this machine, needs of the worker: a report of what it does, and an orderly end.

The report is a small file below /run, written anew at every change and every few seconds. Builds are reported by the
name of their builder. A worker is told when a build starts and when each of its commands starts and ends, and never when
the build ends, so a build counts as running for a few seconds after its last command. In a long pause (a build that waits
for something on the master) it looks idle: idle is a hint. That the master ends the worker after its last build is the
proof.

The agent asks for that with SIGHUP. A worker that loses its master then ends at once: Buildbot has killed its command by
then, and connected again it would be given builds again.
"""
import json
import os
import time

from buildbot_worker import pb
from twisted.internet import reactor, task
from twisted.python import log
from twisted.spread.pb import Error

QUIET = 5    # seconds between two commands of one build
BEAT = 5     # seconds between two reports when nothing changes
LATE = 4     # seconds in which the master begins a build that it chose this worker for before it said "shut down"


class Reporter:
    def __init__(self, path):
        self.path = path
        self.worker = None
        self.connected = False   # the master has accepted the worker
        self.contact = False     # it talks to the worker, accepted or not
        self.closing = False
        self.begun = 0           # commands and builds, ever
        self.seen = {}           # builder: when something of it was seen last
        self.last = (None, 0)
        self.idle_at = None      # `begun` when the master said that no build runs
        self.asked_again = False # whether it has been asked since if that still holds
        self.over = False        # no build may begin any more

    def commands(self):
        return [name for name, builder in self.worker.bot.builders.items() if builder.protocol_command is not None]

    def saw(self, builder):
        self.begun += 1
        self.seen[builder] = reactor.seconds()
        self.write()

    def jobs(self):
        now = reactor.seconds()
        for builder in self.commands():
            self.seen[builder] = now
        return sorted(builder for builder, seen in self.seen.items() if now - seen < QUIET)

    def write(self):
        content = {'pid': os.getpid(), 'connected': self.connected, 'closing': self.closing, 'jobs': self.jobs()}
        beat = time.clock_gettime(time.CLOCK_BOOTTIME)
        content_before, beat_before = self.last
        if content == content_before and beat - beat_before < BEAT:
            return
        self.last = (content, beat)
        with open(self.path + '.new', 'w') as file:
            json.dump(dict(content, beat=beat), file)
        os.replace(self.path + '.new', self.path)

    def lost(self):
        self.connected = self.contact = False
        self.seen.clear()
        self.write()
        if self.closing:
            log.msg('the master is gone, and this worker winds up: ending now')
            self.end()

    def end(self):
        if reactor.running:
            reactor.stop()

    def wind_up(self):
        self.closing = True
        self.write()
        if not self.contact:
            log.msg('winding up: there is no master, ending now')
            self.end()
        elif self.connected:
            self.ask()
        # Else it logs in right now, and asks once it is in.

    def idle(self):
        """The master says that no build runs. It says so of one that it has chosen this worker for and not begun yet, as
        well, which may take it a second or more; a worker that ends then leaves it with a build that hangs for good
        (Buildbot 4.3). From the begin on it knows better, and it gives no others. So it is asked once more, later: it
        answers when that build has ended."""
        if self.asked_again and self.idle_at == self.begun:
            log.msg('the master says so again: ending now')
            self.over = True
            self.end()
        elif self.idle_at is None or self.asked_again:
            log.msg('the master says that no build runs: asking once more soon')
            self.idle_at, self.asked_again = self.begun, False
            reactor.callLater(LATE, self.ask_again)

    def ask_again(self):
        self.asked_again = True
        if self.connected:
            self.ask()

    def ask(self):
        log.msg('winding up: asking the master to end this worker after its builds')
        self.worker.bf.perspective.callRemote('shutdown').addErrback(log.err, 'the master did not take it')


reporter = Reporter(os.path.join(os.environ['RUNTIME_DIRECTORY'], 'report.json'))


class Builder(pb.WorkerForBuilderPb):
    def remote_startBuild(self):
        reporter.saw(self.name)
        return super().remote_startBuild()

    def remote_startCommand(self, *args, **kwargs):
        result = super().remote_startCommand(*args, **kwargs)
        reporter.saw(self.name)
        return result


class Bot(pb.BotPb):
    WorkerForBuilder = Builder

    def remote_getWorkerInfo(self):
        reporter.contact = True
        return super().remote_getWorkerInfo()

    def remote_print(self, message):
        # The master's last question before a build, if it has chosen this worker all the same: no, so it asks another one.
        if reporter.over:
            raise Error('this worker has wound up')
        return super().remote_print(message)

    def remote_shutdown(self):
        if reporter.commands():
            # Not what a master does that waits for builds: somebody there wants it gone.
            return super().remote_shutdown()
        reporter.idle()


class Factory(pb.BotFactory):
    def clientConnectionMade(self, broker, *args, **kwargs):
        super().clientConnectionMade(broker, *args, **kwargs)
        broker.notifyOnDisconnect(reporter.lost)

    def gotPerspective(self, perspective):
        super().gotPerspective(perspective)
        reporter.connected = reporter.contact = True
        reporter.write()
        if reporter.closing:
            reporter.ask()


class Worker(pb.Worker):
    """Buildbot's worker, with a report."""

    def __init__(self, *args, **kwargs):
        # Buildbot's worker finds both by these names.
        pb.BotPb, pb.BotFactory = Bot, Factory
        super().__init__(*args, allow_shutdown='signal', **kwargs)
        reporter.worker = self

    def startService(self):
        super().startService()
        # Only now does it listen to the signal; who reports may be sent it.
        task.LoopingCall(reporter.write).start(1)

    def gracefulShutdown(self):
        # This is a signal handler.
        reactor.callFromThread(reporter.wind_up)
