//! A body that takes its time.

use std::io::{self, Seek as _, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf, Take};

use crate::clock::{SharedClock, Sleep};
use crate::localcloud::s3::Content;

/// In how many pieces a slow body comes.
const PIECES: u64 = 10;

/// Bytes of one piece of a file.
const CHUNK: u64 = 64 * 1024;

/// Bytes that come in pieces with pauses before them; all at once if they are in memory and there is no pause.
pub struct Trickle {
    rest: Rest,
    piece: u64,
    pause: Duration,
    clock: SharedClock,
    sleep: Option<Sleep>,
    /// The pause before the next piece is over.
    rested: bool,
}

/// What is still to come.
enum Rest {
    Held(Bytes),
    File(Take<tokio::fs::File>),
    /// A file that is not at its place yet.
    Seeking(Option<(std::fs::File, u64)>, u64),
}

impl Rest {
    fn length(&self) -> u64 {
        match self {
            Self::Held(bytes) => bytes.len() as u64,
            Self::File(file) => file.limit(),
            Self::Seeking(_, length) => *length,
        }
    }
}

impl Trickle {
    /// A body that takes `time` in all.
    #[must_use]
    pub fn new(content: Content, time: Duration, clock: SharedClock) -> Self {
        let rest = match content {
            Content::Held(bytes) => Rest::Held(bytes),
            Content::File {
                file,
                offset,
                length,
            } => Rest::Seeking(Some((file, offset)), length),
        };
        let length = rest.length();
        let mut piece = if time.is_zero() {
            length
        } else {
            length.div_ceil(PIECES)
        };
        if !matches!(rest, Rest::Held(_)) {
            piece = piece.min(CHUNK);
        }
        let piece = piece.max(1);
        let pieces = u32::try_from(length.div_ceil(piece).max(1)).unwrap_or(u32::MAX);
        Self {
            rest,
            piece,
            pause: time / pieces,
            clock,
            sleep: None,
            rested: false,
        }
    }

    /// The next piece.
    fn next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let Rest::Seeking(file, length) = &mut self.rest
            && let Some((mut file, offset)) = file.take()
        {
            let length = *length;
            // That reads nothing from the disk.
            file.seek(SeekFrom::Start(offset))?;
            self.rest = Rest::File(tokio::fs::File::from_std(file).take(length));
        }
        let piece = usize::try_from(self.piece).unwrap_or(usize::MAX);
        match &mut self.rest {
            Rest::Held(bytes) => {
                let length = piece.min(bytes.len());
                Poll::Ready(Ok(bytes.split_to(length)))
            }
            Rest::File(file) => {
                let mut buffer = vec![0; piece.min(usize::try_from(file.limit()).unwrap_or(piece))];
                let mut read = ReadBuf::new(&mut buffer);
                ready!(Pin::new(file).poll_read(context, &mut read))?;
                let read = read.filled().len();
                if read == 0 {
                    // Its length was promised.
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                buffer.truncate(read);
                Poll::Ready(Ok(buffer.into()))
            }
            Rest::Seeking(..) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.length() == 0 {
            return Poll::Ready(None);
        }
        if !self.pause.is_zero() && !self.rested {
            let (pause, clock) = (self.pause, self.clock.clone());
            let sleep = self.sleep.get_or_insert_with(|| clock.sleep(pause));
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            (self.sleep, self.rested) = (None, true);
        }
        let piece = ready!(self.next(context));
        self.rested = false;
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.length() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.length())
    }
}
