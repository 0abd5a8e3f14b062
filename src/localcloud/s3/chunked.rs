//! `aws-chunked`: a body in chunks of its own, with headers behind them (S3 API Reference, "Transferring Payload in
//! Multiple Chunks", `STREAMING-UNSIGNED-PAYLOAD-TRAILER`).

use std::collections::BTreeMap;

/// The longest line: of a chunk's size with its extensions, or of one trailing header.
const LINE: usize = 4096;
/// Trailing headers.
const TRAILERS: usize = 20;

/// What the bytes to come are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A line with the size of a chunk.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of the line behind a chunk.
    Behind,
    /// Lines of trailing headers.
    Trailer,
    /// Nothing.
    End,
}

/// Takes a body in pieces of any size.
#[derive(Debug)]
pub struct Decoder {
    stage: Stage,
    line: Vec<u8>,
    trailers: BTreeMap<String, String>,
}

/// A body that is not one of this encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Default for Decoder {
    fn default() -> Self {
        Self {
            stage: Stage::Size,
            line: Vec::new(),
            trailers: BTreeMap::new(),
        }
    }
}

impl Decoder {
    /// Gives the bytes of chunks in `piece` to `take`, in order.
    pub fn push<E: From<Malformed>>(
        &mut self,
        mut piece: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !piece.is_empty() {
            if let Stage::Data(left) = self.stage {
                let here = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
                take(&piece[..here])?;
                piece = &piece[here..];
                let left = left - here as u64;
                self.stage = if left == 0 {
                    Stage::Behind
                } else {
                    Stage::Data(left)
                };
                continue;
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let (part, rest) = piece.split_at(end.map_or(piece.len(), |end| end + 1));
            piece = rest;
            self.line.extend_from_slice(part);
            if self.line.len() > LINE {
                return Err(Malformed.into());
            }
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                let line = line.strip_suffix(b"\r\n").ok_or(Malformed)?;
                let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
                self.line(line)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), Malformed> {
        self.stage = match self.stage {
            Stage::Size => {
                let size = line.split(';').next().unwrap_or_default();
                match u64::from_str_radix(size, 16).map_err(|_| Malformed)? {
                    0 => Stage::Trailer,
                    size => Stage::Data(size),
                }
            }
            Stage::Behind if line.is_empty() => Stage::Size,
            Stage::Trailer if line.is_empty() => Stage::End,
            Stage::Trailer => {
                let (name, value) = line.split_once(':').ok_or(Malformed)?;
                let name = name.trim().to_ascii_lowercase();
                self.trailers.insert(name, value.trim().to_owned());
                if self.trailers.len() > TRAILERS {
                    return Err(Malformed);
                }
                Stage::Trailer
            }
            Stage::Behind | Stage::Data(_) | Stage::End => return Err(Malformed),
        };
        Ok(())
    }

    /// The trailing headers, once all is there.
    pub fn finish(self) -> Result<BTreeMap<String, String>, Malformed> {
        if self.stage == Stage::End && self.line.is_empty() {
            Ok(self.trailers)
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &[u8], step: usize) -> Result<(Vec<u8>, BTreeMap<String, String>), Malformed> {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for piece in body.chunks(step) {
            decoder.push(piece, |bytes| {
                out.extend_from_slice(bytes);
                Ok::<_, Malformed>(())
            })?;
        }
        Ok((out, decoder.finish()?))
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let body = b"5;chunk-signature=x\r\nhello\r\nA\r\n 12345678\n\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        let whole = decode(body, body.len()).unwrap();
        assert_eq!(whole.0, b"hello 12345678\n");
        assert_eq!(whole.1["x-amz-checksum-crc32"], "AAAAAA==");
        for step in 1..body.len() {
            assert_eq!(decode(body, step).unwrap(), whole, "{step}");
        }
    }

    #[test]
    fn what_is_cut_or_wrong_is_refused() {
        let body: &[u8] = b"5\r\nhello\r\n0\r\n\r\n";
        decode(body, 3).unwrap();
        for end in 0..body.len() {
            assert_eq!(decode(&body[..end], 100), Err(Malformed), "{end}");
        }
        for wrong in [
            "5\r\nhello!\r\n0\r\n\r\n",
            "x\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "0\r\n\r\nmore\r\n",
            "0\r\nno colon\r\n\r\n",
        ] {
            assert_eq!(decode(wrong.as_bytes(), 100), Err(Malformed), "{wrong:?}");
        }
        let long = "0".repeat(LINE + 1);
        assert_eq!(decode(long.as_bytes(), 100), Err(Malformed));
    }
}
