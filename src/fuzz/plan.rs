//! Plan files. The input is a packed one; or it is the JSON of one and, each after a NUL, the files beside it, because
//! nobody guesses the checksum of a gzip, or that of the JSON.

use crate::bake::saved::Saved;
use crate::digest::Digest;

pub fn run(input: &[u8]) {
    let packed = if input.starts_with(&[0x1f, 0x8b]) {
        input.to_vec()
    } else {
        pack(input).expect("writing to memory does not fail")
    };
    let Ok(plan) = Saved::read(packed.as_slice()) else {
        return;
    };
    assert_eq!(plan.layers().len(), plan.line.len());
    assert_eq!(plan.moved(&plan.place, &plan.outcome), [] as [String; 0]);
    let mut again = Vec::new();
    plan.write(&mut again)
        .expect("writing to memory does not fail");
    let back = Saved::read(again.as_slice()).expect("a plan that was read is written whole");
    assert_eq!(back, plan);
}

fn pack(input: &[u8]) -> std::io::Result<Vec<u8>> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let mut tar = tar::Builder::new(gzip);
    let mut parts = input.split(|byte| *byte == 0).take(8);
    let json = parts.next().unwrap_or_default();
    let sha256 = Digest::of(json).to_string();
    let files = [
        ("plan.json".to_owned(), json),
        ("plan.json.sha256".to_owned(), sha256.as_bytes()),
    ];
    let beside = parts.map(|bytes| (format!("files/{}", Digest::of(bytes)), bytes));
    for (path, bytes) in files.into_iter().chain(beside) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes)?;
    }
    tar.into_inner()?.finish()
}
