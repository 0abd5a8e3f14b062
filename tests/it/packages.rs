//! What an apt archive on loopback offers, against what was noted at a bake.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use flate2::write::GzEncoder;
use piaas_bake::bake::packages::{Archive, Record, read};
use piaas_bake::debs::{Cache, Package};
use sha2::{Digest as _, Sha256};

/// A web server of files, and what it was asked for.
struct Mirror {
    address: String,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (shown, heard) = (files.clone(), asked.clone());
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                // The head ends with an empty line.
                for line in lines {
                    if line.unwrap().is_empty() {
                        break;
                    }
                }
                let path = first.split(' ').nth(1).unwrap().to_owned();
                heard.lock().unwrap().push(path.clone());
                let head = |status: &str, more: &str, length: usize| {
                    format!(
                        "HTTP/1.1 {status}\r\n{more}content-length: {length}\r\nconnection: close\r\n\r\n"
                    )
                };
                let answer = match shown.lock().unwrap().get(&path) {
                    Some(body) if body.starts_with(b"-> ") => {
                        let to = String::from_utf8_lossy(&body[3..]).into_owned();
                        head("302 Found", &format!("location: {to}\r\n"), 0).into_bytes()
                    }
                    Some(body) => [head("200 OK", "", body.len()).as_bytes(), body].concat(),
                    None => head("404 Not Found", "", 0).into_bytes(),
                };
                stream.write_all(&answer).unwrap();
            }
        });
        Self {
            address,
            files,
            asked,
        }
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let mut files = self.files.lock().unwrap();
        files.insert(path.to_owned(), bytes.as_ref().to_vec());
    }

    fn suite(&self) -> String {
        format!("{}/debian/dists/bookworm/", self.address)
    }

    /// Publishes an index; gives the sha256 of its plain form.
    fn publish(&self, packages: &[(&str, &str)]) -> String {
        let index: String = packages
            .iter()
            .map(|(name, version)| format!("Package: {name}\nVersion: {version}\n\n"))
            .collect();
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(index.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let (plain, packed) = (sha256(index.as_bytes()), sha256(&gzip));
        self.put("/debian/dists/bookworm/main/binary-amd64/Packages.gz", gzip);
        self.put(
            "/debian/dists/bookworm/InRelease",
            format!("Suite: x\nSHA256:\n {plain} 1 main/binary-amd64/Packages\n {packed} 1 main/binary-amd64/Packages.gz\n"),
        );
        plain
    }

    fn record(&self, sha256: &str) -> Record {
        let printed = format!(
            "package git 1:2.39 1:2.39\npackage jq 1.6 1.6\nindex {} main/binary-amd64/Packages {sha256}\nend\n",
            self.suite()
        );
        Record::after(None, read(&printed).unwrap())
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn moved(record: &Record) -> Result<Vec<String>, String> {
    let moved = Archive::new().unwrap().moved(record).await?;
    Ok(moved
        .into_iter()
        .map(|one| format!("{} {} {}", one.package, one.from, one.to))
        .collect())
}

#[tokio::test]
async fn an_archive_that_did_not_change_is_asked_once_and_nothing_is_downloaded() {
    let mirror = Mirror::new();
    let then = mirror.publish(&[("git", "1:2.39"), ("jq", "1.6")]);
    let record = mirror.record(&then);
    let mut archive = Archive::new().unwrap();
    for _ in 0..2 {
        assert_eq!(archive.moved(&record).await, Ok(vec![]));
    }
    assert_eq!(
        *mirror.asked.lock().unwrap(),
        ["/debian/dists/bookworm/InRelease"]
    );
}

#[tokio::test]
async fn a_newer_version_of_an_installed_package_has_moved_and_others_do_not_count() {
    let mirror = Mirror::new();
    let then = mirror.publish(&[("git", "1:2.39"), ("jq", "1.6")]);
    let record = mirror.record(&then);
    mirror.publish(&[("git", "1:2.39"), ("jq", "1.6"), ("vim", "9")]);
    assert_eq!(moved(&record).await, Ok(vec![]));
    mirror.publish(&[("git", "1:2.39+deb12u1"), ("git", "1:2.30"), ("jq", "1.5")]);
    assert_eq!(
        moved(&record).await,
        Ok(vec!["git 1:2.39 1:2.39+deb12u1".to_owned()])
    );
    // A mirror that sends one elsewhere.
    let there = mirror.files.lock().unwrap()["/debian/dists/bookworm/InRelease"].clone();
    mirror.put("/moved/InRelease", there);
    mirror.put("/debian/dists/bookworm/InRelease", "-> /moved/InRelease");
    assert_eq!(moved(&record).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_told_is_an_error_that_says_why() {
    let mirror = Mirror::new();
    let then = mirror.publish(&[("git", "1:2.39")]);
    let record = mirror.record(&then);
    let why = async |word: &str| {
        let error = moved(&record).await.unwrap_err();
        assert!(error.contains(word), "{word:?} is not in {error:?}");
        assert!(error.contains(&mirror.address), "{error}");
    };
    mirror.put(
        "/debian/dists/bookworm/InRelease",
        "<html>please log in</html>",
    );
    why("does not read as").await;
    mirror.put(
        "/debian/dists/bookworm/InRelease",
        "-> /debian/dists/bookworm/InRelease",
    );
    why("again and again").await;
    mirror.publish(&[("git", "1:2.40")]);
    mirror.put(
        "/debian/dists/bookworm/main/binary-amd64/Packages.gz",
        "an update came between",
    );
    why("is not the file that its release file names").await;
    mirror.files.lock().unwrap().clear();
    why("status 404").await;

    // A port that nobody listens on.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let printed = format!("package git 1 1\nindex http://{gone}/ main/Packages aa\nend\n");
    let dark = Record::after(None, read(&printed).unwrap());
    let error = moved(&dark).await.unwrap_err();
    assert!(error.contains("does not answer"), "{error}");
    let printed = "package git 1 1\nindex cdrom:[x]/ main/Packages aa\nend\n";
    let disc = Record::after(None, read(printed).unwrap());
    assert!(moved(&disc).await.unwrap_err().contains("over HTTP"));
    let blind = Record::after(None, read("package git 1 1\nend\n").unwrap());
    assert!(moved(&blind).await.unwrap_err().contains("not noted"));
    let nothing = Record::after(None, read("end\n").unwrap());
    assert_eq!(moved(&nothing).await, Ok(vec![]));
}

#[tokio::test]
async fn a_file_of_a_package_is_kept_if_it_is_what_is_locked() {
    let mirror = Mirror::new();
    mirror.put("/pool/git.deb", "content");
    mirror.put("/old/git.deb", "-> /pool/git.deb");
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().join("debs"));
    let git = |path: &str, size: u64, content: &str| Package {
        name: "git".into(),
        version: "1".into(),
        architecture: "amd64".into(),
        size,
        sha256: sha256(content.as_bytes()),
        url: format!("{}{path}", mirror.address),
    };
    let archive = Archive::new().unwrap();
    for (package, why) in [
        (git("/pool/git.deb", 7, "another"), "another sha256"),
        (git("/pool/git.deb", 6, "content"), "is larger"),
        (git("/gone/git.deb", 7, "content"), "status 404"),
    ] {
        let error = archive.fetch(&package, &cache).await.unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    // Nothing is left of what was refused.
    assert_eq!(std::fs::read_dir(cache.dir()).unwrap().count(), 0);
    let wanted = git("/old/git.deb", 7, "content");
    archive.fetch(&wanted, &cache).await.unwrap();
    assert_eq!(cache.lacks([&wanted]), Vec::<&Package>::new());
    assert_eq!(
        std::fs::read(cache.path(&wanted.sha256)).unwrap(),
        b"content"
    );
}
