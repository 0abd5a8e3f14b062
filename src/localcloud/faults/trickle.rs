//! A body that takes its time.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::clock::{SharedClock, Sleep};

/// In how many pieces a slow body comes.
const PIECES: usize = 10;

/// Bytes that come in pieces with pauses before them; all at once if there is no pause.
pub struct Trickle {
    rest: Bytes,
    piece: usize,
    pause: Duration,
    clock: SharedClock,
    sleep: Option<Sleep>,
}

impl Trickle {
    /// A body that takes `time` in all.
    #[must_use]
    pub fn new(bytes: Bytes, time: Duration, clock: SharedClock) -> Self {
        let piece = if time.is_zero() {
            bytes.len().max(1)
        } else {
            bytes.len().div_ceil(PIECES).max(1)
        };
        let pieces = u32::try_from(bytes.len().div_ceil(piece).max(1)).unwrap_or(u32::MAX);
        Self {
            rest: bytes,
            piece,
            pause: time / pieces,
            clock,
            sleep: None,
        }
    }
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if !self.pause.is_zero() {
            let (pause, clock) = (self.pause, self.clock.clone());
            let sleep = self.sleep.get_or_insert_with(|| clock.sleep(pause));
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
        }
        let length = self.piece.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
