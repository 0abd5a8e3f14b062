//! Lock files: what is written is read, and what is none is refused.

use super::*;

fn package(name: &str, version: &str) -> LockedPackage {
    LockedPackage {
        name: name.into(),
        version: version.into(),
        architecture: "amd64".into(),
        size: 7,
        sha256: "ab".repeat(32),
        url: format!("http://deb.debian.org/debian/pool/{name}.deb"),
    }
}

fn lock(packages: &[(&str, &str)]) -> Lock {
    let packages = packages
        .iter()
        .map(|(name, version)| package(name, version));
    let index = LockedIndex {
        suite: "http://deb.debian.org/debian/dists/bookworm/".into(),
        path: "main/binary-amd64/Packages".into(),
        sha256: "cd".repeat(32),
    };
    let asked = ["git".to_owned(), "no".into()];
    Lock::new("web", asked, vec![index], packages.collect())
}

#[test]
fn what_is_written_is_read_and_sorted() {
    let written = lock(&[("no", "1:2"), ("git", "1:2.39~x+deb12u1")]);
    let text = written.to_text();
    let path = Path::new("web/recipe.lock");
    assert_eq!(Lock::read(&text, path, "web").unwrap(), written);
    assert_eq!(
        text,
        "# Written by `piaas-bake lock web`. It pins what the recipe installs; `lock --update` moves it.\n\
         lock: 1\nrecipe: \"web\"\nasked: [\"git\",\"no\"]\nindexes:\n\
         - {\"suite\":\"http://deb.debian.org/debian/dists/bookworm/\",\"path\":\"main/binary-amd64/Packages\",\"sha256\":\"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\"}\n\
         packages:\n\
         - {\"name\":\"git\",\"version\":\"1:2.39~x+deb12u1\",\"architecture\":\"amd64\",\"size\":7,\"sha256\":\"abababababababababababababababababababababababababababababababab\",\"url\":\"http://deb.debian.org/debian/pool/git.deb\"}\n\
         - {\"name\":\"no\",\"version\":\"1:2\",\"architecture\":\"amd64\",\"size\":7,\"sha256\":\"abababababababababababababababababababababababababababababababab\",\"url\":\"http://deb.debian.org/debian/pool/no.deb\"}\n"
    );
    let mut based = written.clone();
    based.base.insert(
        Lock::place("us-east-1", "x86_64"),
        "ami-0123456789abcdef0".into(),
    );
    let text = based.to_text();
    assert!(text.contains("\nbase: {\"us-east-1 x86_64\":\"ami-0123456789abcdef0\"}\n"));
    assert_eq!(Lock::read(&text, path, "web").unwrap(), based);
    let wrong = text.replace("ami-0123456789abcdef0", "ami-x");
    let error = Lock::read(&wrong, path, "web").unwrap_err();
    assert_eq!(
        (
            error.location.unwrap().line,
            error.message.contains("no image id")
        ),
        (4, true)
    );
    let mut dated = written.clone();
    assert_eq!(
        (dated.source_date(), Lock::kept_date(None)),
        (SOURCE_DATE, timestamp(SOURCE_DATE))
    );
    dated.source_date = Some(timestamp(FIRST_DATE));
    let text = dated.to_text();
    assert!(
        text.contains("\nsource_date: \"1980-01-01T00:00:00Z\"\nasked: "),
        "{text}"
    );
    assert_eq!(Lock::read(&text, path, "web").unwrap(), dated);
    assert_eq!(Lock::kept_date(Some(&dated)).as_second(), FIRST_DATE);
    for (date, good) in [
        ("2023-06-10T00:00:00Z", true),
        ("2023-06-10T00:00:01Z", false),
        ("1979-12-31T23:59:59Z", false),
        ("2020-01-01T00:00:00.5Z", false),
    ] {
        let read = Lock::read(&text.replace("1980-01-01T00:00:00Z", date), path, "web");
        assert_eq!(read.is_ok(), good, "{date}");
        if let Err(error) = read {
            assert!(
                error
                    .message
                    .contains(&format!("the source date {date} is not"))
            );
            assert!(
                error
                    .message
                    .ends_with("from 1980-01-01T00:00:00Z to 2023-06-10T00:00:00Z")
            );
            assert!(
                error
                    .help
                    .unwrap()
                    .starts_with("write a date between the two")
            );
            assert_eq!(error.location.unwrap().line, 4);
        }
    }
    let mut on_local = written.clone();
    let base = || LocalBase {
        released: [("s".to_owned(), "Mon".to_owned())].into(),
        asked: ["apt".to_owned()].into(),
        indexes: Vec::new(),
        packages: vec![package("apt", "2.6")],
    };
    on_local.local_base = Some(base());
    let text = on_local.to_text();
    assert!(text.starts_with(&written.to_text()));
    assert!(
        text.contains("\n  packages:\n  - {\"name\":\"apt\","),
        "{text}"
    );
    assert_eq!(Lock::read(&text, path, "web").unwrap(), on_local);
    assert_eq!(
        on_local.pins(),
        [("local x86_64".to_owned(), base().digest())].into()
    );
    assert_eq!(
        (written.pins().len(), on_local.changes(&written).len()),
        (0, 0)
    );
    assert_eq!(written.base_changes(&on_local)[0].package, "apt");
    let wrong = text.replace("\"2.6\"", "\"2 6\"");
    let error = Lock::read(&wrong, path, "web").unwrap_err();
    assert_eq!(error.location.unwrap().line, wrong.lines().count());
    let mut with_download = written.clone();
    let download = |sha256: &str| LockedDownload {
        url: "https://example.com/a/tool-1.tar.gz?x=1".into(),
        sha256: sha256.repeat(32),
        size: 9,
    };
    with_download.downloads.push(download("ef"));
    let text = with_download.to_text();
    let line = format!(
        "\ndownloads:\n- {{\"url\":\"https://example.com/a/tool-1.tar.gz?x=1\",\"sha256\":\"{}\",\"size\":9}}\n",
        "ef".repeat(32)
    );
    assert!(text.ends_with(&line), "{text}");
    assert_eq!(Lock::read(&text, path, "web").unwrap(), with_download);
    assert_eq!(with_download.files().last().unwrap().name, "tool-1.tar.gz");
    let changes = written.download_changes(&with_download);
    assert_eq!((changes.len(), changes[0].from.as_deref()), (1, None));
    assert!(written.changes(&with_download).is_empty());
    for (from, to) in [("efef", "EFEF"), ("https", "ftp"), ("tool-1", "tool 1")] {
        let error = Lock::read(&text.replace(from, to), path, "web").unwrap_err();
        assert!(error.message.contains("no download"), "{to}");
        assert_eq!(error.location.unwrap().line, text.lines().count(), "{to}");
    }
    let empty = lock(&[]);
    assert_eq!(Lock::read(&empty.to_text(), path, "web").unwrap(), empty);
    assert_eq!(written.lines().lines().count(), 2);
    assert_eq!(written.lacks(&["git".into(), "vim".into()]), ["vim"]);
}

#[test]
fn what_is_no_lock_of_the_recipe_is_refused_with_its_place() {
    let text = lock(&[("git", "1")]).to_text();
    for (from, to, message, line) in [
        ("lock: 1", "lock: 2", "has the format 2", 1),
        ("\"web\"", "\"api\"", "is the lock file of `api`", 1),
        ("asked", "missing", "this is no lock file", 4),
        (
            "\"1\"",
            "\"1; rm -rf /\"",
            "the version of the package `git`",
            8,
        ),
        (
            "debian/pool",
            "debian pool",
            "the url of the package `git`",
            8,
        ),
        ("abab", "ABAB", "the sha256 of the package `git`", 8),
        ("size\":7", "size\":-7", "this is no lock file", 8),
    ] {
        let error = Lock::read(&text.replacen(from, to, 1), Path::new("l"), "web").unwrap_err();
        assert!(error.message.contains(message), "{to}: {}", error.message);
        assert_eq!(error.location.unwrap().line, line, "{to}");
    }
}

#[test]
fn a_diff_names_what_moved_came_and_went() {
    let old = lock(&[("git", "1"), ("jq", "1"), ("zip", "3")]);
    let new = lock(&[("git", "2"), ("vim", "9"), ("zip", "3")]);
    let said: Vec<_> = old
        .changes(&new)
        .into_iter()
        .map(|change| (change.package, change.from, change.to))
        .collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        said,
        [
            ("git".into(), some("1"), some("2")),
            ("jq".into(), some("1"), None),
            ("vim".into(), None, some("9")),
        ]
    );
}

#[test]
fn whatever_a_lock_names_is_read_back() {
    let odd = "\u{1}\t\r\n\u{7f}\u{85}\u{9f}\u{a0}\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}\u{1f980}\"\\'#: é";
    let mut lock = Lock::new("web", [odd.to_owned()], Vec::new(), Vec::new());
    lock.local_base = Some(LocalBase {
        released: [("http://m/".to_owned(), odd.to_owned())].into(),
        asked: [odd.to_owned()].into(),
        indexes: Vec::new(),
        packages: Vec::new(),
    });
    let read = Lock::read(&lock.to_text(), Path::new(FILE), "web").unwrap();
    assert_eq!(read, lock);
}

#[test]
fn an_index_that_would_be_more_than_a_word_is_refused_with_its_place() {
    let index = LockedIndex {
        suite: "http://m/ x main\ndeb [trusted=yes] http://n".into(),
        path: "main/binary-amd64/Packages".into(),
        sha256: "ab".repeat(32),
    };
    let lock = Lock::new("web", [], vec![index], Vec::new());
    let error = Lock::read(&lock.to_text(), Path::new(FILE), "web").unwrap_err();
    assert!(error.message.contains("the suite of the index"), "{error}");
    assert_eq!(error.location.unwrap().line, 6);
}

#[test]
fn a_key_that_could_not_be_read_back_is_refused() {
    let long = "m".repeat(2000);
    let head = "lock: 1\nrecipe: web\nasked: []\nindexes: []\npackages: []\n";
    for (text, message) in [
        (
            format!("{head}base:\n  ? {long}\n  : ami-0123456789abcdef0\n"),
            "is no place of a base image",
        ),
        (
            format!(
                "{head}local_base:\n  released:\n    ? {long}\n    : x\n  asked: []\n  indexes: []\n  packages: []\n"
            ),
            "of the base image cannot be used",
        ),
    ] {
        let error = Lock::read(&text, Path::new(FILE), "web").unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert!(error.message.len() < 200, "{error}");
    }
}

#[test]
fn what_is_missed_behind_the_end_has_a_place_within_the_text() {
    for text in [
        "lock: 1\nasked: [x\n",
        "lock: 1\nasked: {[\n}x\npac",
        "{",
        "lock: 1\n\n",
    ] {
        let error = Lock::read(text, Path::new(FILE), "web").unwrap_err();
        let at = error.location.unwrap();
        let line = text
            .split('\n')
            .nth(at.line - 1)
            .expect("there is such a line");
        assert!((1..=line.chars().count() + 1).contains(&at.column));
    }
}
