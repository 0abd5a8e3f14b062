//! Downloads: what they become, and that nothing but the right file gets to its place.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use super::super::locked::MISMATCH;
use super::*;
use crate::render::script::Layer;

const FILE: &[u8] = b"a tool of some bytes\n";

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn rendered(kitchen: &Kitchen) -> Layer {
    let given = recipe::Given::default();
    let resolved = recipe::load(kitchen.dir(), "a", &given).unwrap();
    render(&resolved, b"agent").unwrap().remove(0)
}

/// A server of one answer: what follows the head, or nothing there at all.
fn serve(answer: Arc<Mutex<Option<Vec<u8>>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            // The head ends with an empty line.
            lines.map_while(Result::ok).find(String::is_empty);
            let answer = match &*answer.lock().unwrap() {
                Some(body) => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    [head.as_bytes(), body].concat()
                }
                None => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    .to_vec(),
            };
            // Who asks may have gone.
            let _ = stream.write_all(&answer);
        }
    });
    address
}

#[test]
fn a_download_is_a_file_of_its_layer_by_its_sha256() {
    let kitchen = Kitchen::new();
    kitchen.recipe(
        "a",
        "parameters: { v: { type: string, default: \"1'2\" }, with: { type: boolean, default: false } }\n\
         files:\n  - { path: /opt/tool, url: \"https://example.com/{{ v }}?a=1&b=2\", mode: \"0755\", owner: ci }\n\
         \x20 - { path: /opt/no, url: \"https://example.com/no\", when: with }\n  - { path: /etc/x, content: x }\n",
    );
    let said = |kitchen: &Kitchen| {
        let given = recipe::Given::default();
        let resolved = recipe::load(kitchen.dir(), "a", &given).unwrap();
        render(&resolved, b"agent").map_err(|found| found.to_string())
    };
    let refused = said(&kitchen).unwrap_err();
    assert!(refused.contains("there is no lock file"), "{refused}");
    let lock = |url: &str| {
        let sha256 = "ab".repeat(32);
        let text = format!(
            "lock: 1\nrecipe: a\nasked: []\nindexes: []\npackages: []\ndownloads:\n- {{\"url\":\"{url}\",\"sha256\":\"{sha256}\",\"size\":9}}\n"
        );
        kitchen.put("a/recipe.lock", text);
    };
    lock("https://example.com/other");
    let refused = said(&kitchen).unwrap_err();
    assert!(
        refused.contains("the lock file does not have it"),
        "{refused}"
    );
    lock("https://example.com/1'2?a=1&b=2");
    let layer = said(&kitchen).unwrap().remove(0);
    assert_eq!(layer.files[1].path, "/opt/tool");
    assert_eq!((layer.files.len(), layer.downloads.len()), (2, 1));
    assert_eq!(layer.files[1].sha256, "ab".repeat(32));
    let script = &layer.provision[2];
    assert_eq!(script.title, "Download 1 file");
    let line = format!(
        "place '{}' 'ci' 'root' '0755' '/opt/tool' 'https://example.com/1'\\''2?a=1&b=2'\n",
        "ab".repeat(32)
    );
    assert!(script.text.ends_with(&line), "{}", script.text);
    assert_pleases_shellcheck(&script.text);
}

/// What nobody has filled in yet is no fault of the recipe.
#[test]
fn a_lint_does_not_judge_what_it_has_made_up() {
    let kitchen = Kitchen::new();
    let recipe = |files: &str| {
        kitchen.recipe(
            "a",
            &format!(
                "parameters: {{ at: {{ type: string }}, sum: {{ type: string }} }}\n\
                 files: [{{ path: /x, {files} }}, {{ path: /y, content: \"{{{{ at }}}} {{{{ sum }}}}\" }}]\n"
            ),
        );
        recipe::merge_for_lint(kitchen.dir(), "a").and_then(lint)
    };
    let made_up = "url: \"{{ at }}/x\", sha256: \"{{ sum }}\"";
    assert!(recipe(made_up).is_ok());
    let found = recipe("url: \"{{ at }}/x\"").unwrap_err().to_string();
    assert!(found.contains("there is no lock file"), "{found}");
    let found = recipe("url: https://, sha256: \"{{ sum }}\"").unwrap_err();
    assert!(
        found.to_string().contains("not the URL of a file"),
        "{found}"
    );
}

#[test]
fn nothing_but_the_right_file_gets_to_its_place() {
    let answer = Arc::new(Mutex::new(None));
    let address = serve(answer.clone());
    let kitchen = Kitchen::new();
    let target = kitchen.dir().join("root/opt/it's a tool");
    kitchen.recipe(
        "a",
        &format!(
            "files:\n  - {{ path: \"{}\", url: \"{address}/tool\", sha256: {}, mode: \"0750\" }}\n",
            target.display(),
            sha256(FILE)
        ),
    );
    let text = rendered(&kitchen).provision.remove(0).text;
    let user = String::from_utf8(run("id -un")).unwrap();
    let group = String::from_utf8(run("id -gn")).unwrap();
    let kept = kitchen.dir().join("kept");
    fs::create_dir(&kept).unwrap();
    // Files belong to root, which this test may not be.
    let text = text
        .replace(
            " 'root' 'root' ",
            &format!(" '{}' '{}' ", user.trim(), group.trim()),
        )
        .replace("/run/piaas-bake/debs", &kept.display().to_string())
        .replace("/var/tmp", &kitchen.dir().display().to_string());
    let with_curl = text.replace("/usr/lib/apt/apt-helper", "/nonexistent");
    let mut ways = Vec::new();
    if Path::new("/usr/lib/apt/apt-helper").exists() {
        ways.push(text);
    }
    if Command::new("curl").arg("--version").output().is_ok() {
        ways.push(with_curl);
    }
    if ways.is_empty() {
        eprintln!("left out: neither apt-helper nor curl is installed");
    }
    let mut wrong: Vec<Option<Vec<u8>>> = (0..FILE.len())
        .step_by(5)
        .map(|at| {
            let mut bytes = FILE.to_vec();
            bytes[at] ^= 1;
            Some(bytes)
        })
        .collect();
    wrong.extend([
        None,
        Some(Vec::new()),
        Some(FILE[1..].to_vec()),
        Some([FILE, b"x"].concat()),
    ]);
    let in_cache = kept.join(format!("{}.deb", sha256(FILE)));
    let output = |text: &str| {
        let output = Command::new("/bin/sh")
            .args(["-c", text])
            .env("no_proxy", "127.0.0.1")
            .stdin(Stdio::null())
            .output();
        output.unwrap()
    };
    for text in &ways {
        for before in [None, Some(&b"older"[..])] {
            let is_as_before = || fs::read(&target).ok().as_deref() == before;
            let _none_yet = fs::remove_file(&target);
            if let Some(before) = before {
                fs::write(&target, before).unwrap();
            }
            // What the host shows is checked, too.
            fs::write(&in_cache, "wrong").unwrap();
            for bytes in &wrong {
                answer.lock().unwrap().clone_from(bytes);
                let refused = output(text);
                assert!(!refused.status.success() && is_as_before(), "{bytes:?}");
                if bytes.as_ref().is_some_and(|bytes| !bytes.is_empty()) {
                    assert_eq!(refused.status.code(), Some(MISMATCH), "{bytes:?}");
                    let said = String::from_utf8_lossy(&refused.stdout);
                    assert!(said.contains("is another file than expected"), "{said}");
                }
            }
            *answer.lock().unwrap() = Some(FILE.to_vec());
            assert!(output(text).status.success());
            assert_eq!(fs::read(&target).unwrap(), FILE);
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&target).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o750);
            // From the host alone, and again.
            *answer.lock().unwrap() = None;
            fs::write(&in_cache, FILE).unwrap();
            fs::write(&target, "changed").unwrap();
            assert!(output(text).status.success());
            assert_eq!(fs::read(&target).unwrap(), FILE);
        }
    }
    let left: Vec<_> = fs::read_dir(kitchen.dir())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("piaas-bake."))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
