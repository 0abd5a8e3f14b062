//! Fuzz targets: one function for each thing that reads input from outside. Any bytes will do; a panic is a finding.
//!
//! `make fuzz` runs them under libFuzzer (`tests/fuzz`), which looks for inputs that reach new code and keeps them in
//! `tests/fuzz/corpus/<target>`. `cargo test` runs each kept input once.

mod archive;
mod config;
mod deb;
mod journal;
mod listing;
mod lock;
mod machine;
mod plan;
mod recipe;
mod requests;
mod s3;
mod shell;
mod template;
mod wire;
mod xml;

/// What is run with one input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 13] = [
    Target {
        name: "archive",
        run: archive::run,
    },
    Target {
        name: "config",
        run: config::run,
    },
    Target {
        name: "deb",
        run: deb::run,
    },
    Target {
        name: "journal",
        run: journal::run,
    },
    Target {
        name: "listing",
        run: listing::run,
    },
    Target {
        name: "lock",
        run: lock::run,
    },
    Target {
        name: "machine",
        run: machine::run,
    },
    Target {
        name: "plan",
        run: plan::run,
    },
    Target {
        name: "recipe",
        run: recipe::run,
    },
    Target {
        name: "requests",
        run: requests::run,
    },
    Target {
        name: "s3",
        run: s3::run,
    },
    Target {
        name: "template",
        run: template::run,
    },
    Target {
        name: "wire",
        run: wire::run,
    },
];

/// An empty directory, in memory where that can be had: a target makes one for each of many thousand inputs.
fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    tempfile::tempdir_in(memory)
        .or_else(|_| tempfile::tempdir())
        .expect("a directory can be made")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every input that was worth keeping, and every one that broke something once.
    #[test]
    fn the_corpus_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        for target in super::TARGETS {
            let mut inputs = 0;
            for entry in corpus.join(target.name).read_dir().unwrap() {
                let path = entry.unwrap().path();
                // The name of the input that breaks it comes out with the panic.
                eprintln!("{}", path.display());
                (target.run)(&std::fs::read(&path).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "{} has no corpus", target.name);
        }
        let kept = corpus.read_dir().unwrap().count();
        assert_eq!(kept, super::TARGETS.len(), "a corpus without a target");
    }
}
