//! Little-endian fields of on-disk structures.

/// Writes a `u16` at `offset`.
pub(crate) fn put16(buffer: &mut [u8], offset: usize, value: u16) {
    buffer[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes a `u32` at `offset`.
pub(crate) fn put32(buffer: &mut [u8], offset: usize, value: u32) {
    buffer[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes a `u64` at `offset`.
pub(crate) fn put64(buffer: &mut [u8], offset: usize, value: u64) {
    buffer[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// The low 8 bits.
pub(crate) fn low8(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// The low 16 bits; many fields are split in halves.
pub(crate) fn low16(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// The high 16 bits.
pub(crate) fn high16(value: u32) -> u16 {
    (value >> 16) as u16
}

/// The low 32 bits.
pub(crate) fn low32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// The high 32 bits.
pub(crate) fn high32(value: u64) -> u32 {
    (value >> 32) as u32
}
