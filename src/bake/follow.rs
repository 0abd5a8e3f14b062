//! Reading the log of a runner while it grows. Pure.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What one `follow` command printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Size of the log when it was looked at, in bytes.
    pub size: u64,
    /// The runner has finished its list: the log does not grow any more.
    pub ended: bool,
    /// The runner pauses, or has not taken up its list again yet.
    pub paused: bool,
    /// New bytes of the log.
    pub bytes: Vec<u8>,
}

/// Reads the output of `templates/follow.sh`; `None` if it is something else.
#[must_use]
pub fn answer(stdout: &str) -> Option<Answer> {
    let mut lines = stdout.lines();
    let (size, state) = lines.next()?.split_once(' ')?;
    let (ended, paused) = match state {
        "ended" => (true, false),
        "paused" => (false, true),
        "running" => (false, false),
        _ => return None,
    };
    let text: String = lines.map(str::trim).collect();
    Some(Answer {
        size: size.parse().ok()?,
        ended,
        paused,
        bytes: STANDARD.decode(text).ok()?,
    })
}

/// One piece of a runner's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Begin {
        number: u32,
        attempt: u32,
    },
    Skip {
        number: u32,
    },
    Retry {
        number: u32,
        exit_code: i32,
    },
    End {
        number: u32,
        exit_code: i32,
        seconds: u64,
    },
    Line(String),
}

/// The ASCII record separator at the beginning of the runner's own lines.
const FRAME: char = '\u{1e}';

/// Cuts a growing log into pieces; a line that is not complete yet waits for its end.
#[derive(Debug, Default)]
pub struct Cutter {
    rest: Vec<u8>,
}

impl Cutter {
    /// Takes the next bytes, gives the lines that are complete now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        whole[..end]
            .split(|byte| *byte == b'\n')
            .map(piece)
            .collect()
    }

    /// The last line, if it had no end.
    pub fn finish(&mut self) -> Option<Piece> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| piece(&rest))
    }
}

fn piece(line: &[u8]) -> Piece {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    frame(text).unwrap_or_else(|| Piece::Line(text.to_owned()))
}

fn frame(line: &str) -> Option<Piece> {
    let mut words = line.strip_prefix(FRAME)?.split(' ');
    let verb = words.next()?;
    let number = words.next()?.parse().ok()?;
    Some(match verb {
        "begin" => Piece::Begin {
            number,
            attempt: words.next()?.parse().ok()?,
        },
        "skip" => Piece::Skip { number },
        "retry" => Piece::Retry {
            number,
            exit_code: words.next()?.parse().ok()?,
        },
        "end" => Piece::End {
            number,
            exit_code: words.next()?.parse().ok()?,
            seconds: words.next()?.parse().ok()?,
        },
        _ => return None,
    })
}

/// The last lines of a log.
#[derive(Debug)]
pub struct Tail {
    lines: VecDeque<String>,
    most: usize,
}

impl Tail {
    /// Keeps the last `most` lines.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            most,
        }
    }

    pub fn push(&mut self, line: &str) {
        if self.lines.len() == self.most {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }

    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// The result that a runner prints last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Result {
    Ok {
        count: u32,
    },
    Failed {
        number: u32,
        exit_code: i32,
        attempts: u32,
    },
    /// It went as far as this script, for now.
    Paused {
        number: u32,
    },
}

/// Finds the result in a runner's standard output; `None` if it did not get that far.
#[must_use]
pub fn result(stdout: &str) -> Option<Result> {
    stdout.lines().rev().find_map(|line| {
        let words: Vec<&str> = line.trim().split(' ').collect();
        match words.as_slice() {
            ["ok", count] => Some(Result::Ok {
                count: count.parse().ok()?,
            }),
            ["failed", number, exit_code, attempts] => Some(Result::Failed {
                number: number.parse().ok()?,
                exit_code: exit_code.parse().ok()?,
                attempts: attempts.parse().ok()?,
            }),
            ["paused", number] => Some(Result::Paused {
                number: number.parse().ok()?,
            }),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_state_and_base64() {
        let expected = Answer {
            size: 12,
            ended: false,
            paused: false,
            bytes: b"hello\nworld\n".to_vec(),
        };
        assert_eq!(answer("12 running\naGVsbG8K\nd29ybGQK\n"), Some(expected));
        assert_eq!(
            answer("0 ended\n"),
            Some(Answer {
                size: 0,
                ended: true,
                paused: false,
                bytes: vec![]
            })
        );
        assert!(answer("0 paused\n").unwrap().paused);
        for wrong in ["", "12\n", "x running\n", "1 asleep\n", "1 running\n***\n"] {
            assert_eq!(answer(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn pieces_are_the_same_however_the_log_is_cut() {
        let log = "\u{1e}begin 001 1\nGrüße\nno end: 50%\r\n\u{1e}retry 001 7\n\u{1e}end 001 0 12\n\u{1e}skip 002\nlast";
        let whole: Vec<Piece> = {
            let mut cutter = Cutter::default();
            let mut pieces = cutter.push(log.as_bytes());
            pieces.extend(cutter.finish());
            pieces
        };
        assert_eq!(
            whole,
            [
                Piece::Begin {
                    number: 1,
                    attempt: 1
                },
                Piece::Line("Grüße".into()),
                Piece::Line("no end: 50%".into()),
                Piece::Retry {
                    number: 1,
                    exit_code: 7
                },
                Piece::End {
                    number: 1,
                    exit_code: 0,
                    seconds: 12
                },
                Piece::Skip { number: 2 },
                Piece::Line("last".into()),
            ]
        );
        for cut in 0..log.len() {
            let mut cutter = Cutter::default();
            let mut pieces = cutter.push(&log.as_bytes()[..cut]);
            pieces.extend(cutter.push(&log.as_bytes()[cut..]));
            pieces.extend(cutter.finish());
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_that_makes_no_sense_is_a_line() {
        let mut cutter = Cutter::default();
        assert_eq!(
            cutter.push(b"\x1eend x\n"),
            [Piece::Line("\u{1e}end x".into())]
        );
    }

    #[test]
    fn the_last_result_counts() {
        let out = "script 001 asked for a reboot\nok 1\nscript 002 (x) failed with exit code 3\nfailed 002 3 2\n";
        assert_eq!(
            result(out),
            Some(Result::Failed {
                number: 2,
                exit_code: 3,
                attempts: 2
            })
        );
        assert_eq!(result("ok 12\n"), Some(Result::Ok { count: 12 }));
        assert_eq!(result("Killed\n"), None);
    }

    #[test]
    fn a_tail_forgets_the_oldest() {
        let mut tail = Tail::new(2);
        for line in ["a", "b", "c"] {
            tail.push(line);
        }
        assert_eq!(tail.to_vec(), ["b", "c"]);
    }
}
