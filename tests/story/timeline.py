"""A timeline that people can follow: lines while it happens, a picture when it is over."""

import html
import sys
import threading
import time

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What a worker's lane shows, as text and as a colour that reads in print and for the colour-blind (Okabe and Ito).
STATES = {
    "boots": (".", "#d5d5d5"),
    "idle": ("-", "#56b4e9"),
    "busy": ("#", "#009e73"),
    "unknown": ("?", "#f0e442"),
    "winds up": ("~", "#e69f00"),
    "drained": ("x", "#d55e00"),
}


class Timeline:
    """Lines on stdout, each with its time since the beginning; spans of workers for the picture."""

    def __init__(self, out=sys.stdout, colour=None):
        self.began = time.monotonic()
        self.out = out
        self.colour = out.isatty() if colour is None else colour
        self.lock = threading.Lock()
        self.names = {}
        # Worker -> [[state, begin, end or None], …], seconds since the beginning.
        self.lanes = {}
        # (begin, end or None, title) of what happens to the fleet as a whole.
        self.chapters = []
        self.marks = []
        self.versions = {}

    def now(self):
        return time.monotonic() - self.began

    def name(self, instance):
        """A letter for an instance; after Z come AA, AB."""
        with self.lock:
            if instance not in self.names:
                number = len(self.names)
                letter = LETTERS[number % 26]
                self.names[instance] = letter if number < 26 else LETTERS[number // 26 - 1] + letter
            return self.names[instance]

    def line(self, who, what):
        with self.lock:
            stamp = f"{int(self.now() // 60):d}:{int(self.now() % 60):02d}"
            if self.colour:
                tint = 36 if who.startswith("worker") else 35 if who.startswith(("roll", "image")) else 33
                who = f"\033[{tint}m{who:<10}\033[0m"
            print(f"{stamp:>6}  {who:<10}  {what}", file=self.out, flush=True)

    def state(self, instance, state):
        """The worker is in this state from now on; `None`: it is gone."""
        now = self.now()
        lane = self.lanes.setdefault(self.name(instance), [])
        if lane and lane[-1][2] is None:
            if lane[-1][0] == state:
                return False
            lane[-1][2] = now
        if state is not None:
            lane.append([state, now, None])
        return True

    def chapter(self, title):
        chapter = [self.now(), None, title]
        self.chapters.append(chapter)
        return chapter

    def close(self, chapter):
        chapter[1] = self.now()

    def end(self):
        now = self.now()
        for lane in self.lanes.values():
            if lane and lane[-1][2] is None:
                lane[-1][2] = now
        for chapter in self.chapters:
            if chapter[1] is None:
                chapter[1] = now

    def as_text(self, width=72):
        """One lane a worker."""
        total = max(self.now(), 1)
        step = total / width
        rows = []
        for title, begin, end in ((title, begin, end) for begin, end, title in self.chapters):
            first, last = int(begin / step), max(int((end or total) / step), int(begin / step) + 1)
            rows.append(f"  {'':<9} {' ' * first}{'=' * min(last - first, width - first)} {title}")
        for name, lane in self.lanes.items():
            text = ""
            for column in range(width):
                middle = (column + 0.5) * step
                state = next((s for s, b, e in lane if b <= middle < (e or total)), None)
                text += STATES[state][0] if state else " "
            version = self.versions.get(name)
            rows.append(f"  worker {name:<2} {text.rstrip():<{width}} {version or ''}".rstrip())
        legend = "   ".join(f"{mark} {state}" for state, (mark, _) in STATES.items())
        rows.append(f"  {'':<9} {legend}")
        return "\n".join(rows)

    def as_svg(self, title):
        """The same as a picture."""
        total = max(self.now(), 1)
        left, wide, high, gap = 90, 900, 22, 8
        rows = len(self.chapters) + len(self.lanes)
        height = 70 + rows * (high + gap) + 60

        def x(seconds):
            return left + wide * seconds / total

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 110} {height}" '
            'font-family="system-ui, sans-serif" font-size="12">',
            f"<title>{html.escape(title)}</title>",
            f'<rect width="100%" height="100%" fill="#ffffff"/><text x="{left}" y="24" font-size="16">{html.escape(title)}</text>',
        ]
        every = next(step for step in (10, 30, 60, 120, 300, 600, 3600) if total / step <= 12)
        second = 0
        while second <= total:
            parts.append(
                f'<line x1="{x(second):.1f}" y1="40" x2="{x(second):.1f}" y2="{height - 50}" stroke="#eeeeee"/>'
                f'<text x="{x(second):.1f}" y="{height - 34}" text-anchor="middle" fill="#777777">'
                f"{second // 60}:{second % 60:02d}</text>"
            )
            second += every
        top = 44
        for begin, end, name in self.chapters:
            end = end or total
            parts.append(
                f'<rect x="{x(begin):.1f}" y="{top}" width="{max(x(end) - x(begin), 2):.1f}" height="{high}" rx="3" fill="#cc79a7" opacity="0.35"/>'
                f'<text x="{x(begin) + 4:.1f}" y="{top + 15}">{html.escape(name)}</text>'
            )
            top += high + gap
        for name, lane in self.lanes.items():
            parts.append(f'<text x="{left - 8}" y="{top + 15}" text-anchor="end">worker {name}</text>')
            for state, begin, end in lane:
                end = end or total
                parts.append(
                    f'<rect x="{x(begin):.1f}" y="{top}" width="{max(x(end) - x(begin), 1):.1f}" height="{high}" '
                    f'fill="{STATES[state][1]}"><title>{name}: {state}, {begin:.0f} s to {end:.0f} s</title></rect>'
                )
            version = self.versions.get(name)
            if version and lane:
                parts.append(f'<text x="{x(lane[-1][2] or total) + 6:.1f}" y="{top + 15}" fill="#555555">{html.escape(version)}</text>')
            top += high + gap
        at = left
        for state, (_, colour) in STATES.items():
            parts.append(
                f'<rect x="{at}" y="{height - 22}" width="14" height="14" fill="{colour}"/>'
                f'<text x="{at + 20}" y="{height - 10}">{state}</text>'
            )
            at += 110
        parts.append("</svg>")
        return "\n".join(parts) + "\n"
