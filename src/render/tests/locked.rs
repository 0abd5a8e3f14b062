//! The scripts that hold apt to a lock file, run with a real apt on an archive of a directory.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use super::super::locked::{MISMATCH, MOVE_TOO, guards, pins};
use super::*;
use crate::recipe::LockedPackage;
use crate::render::script::Script;

/// A machine of directories, with apt's own and what the local cloud shows it.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(machine.0.path(), readable).unwrap();
        for dir in [
            "archive",
            "kept",
            "here",
            "etc/apt.conf.d",
            "lists/partial",
            "cache",
        ] {
            fs::create_dir_all(machine.place(dir)).unwrap();
        }
        let archive = format!("deb [trusted=yes] file:{} ./\n", machine.place("archive"));
        fs::write(machine.place("etc/sources.list"), archive).unwrap();
        fs::write(machine.place("status"), "").unwrap();
        let place = |name| machine.place(name);
        let conf = format!(
            "Dir::Etc \"{}\"; Dir::State \"{}\"; Dir::State::status \"{}\"; Dir::Cache \"{}\"; \
             APT::Sandbox::User \"root\"; Debug::NoLocking \"true\";\n",
            place("etc"),
            machine.0.path().display(),
            place("status"),
            place("cache"),
        );
        fs::write(machine.place("apt.conf"), conf).unwrap();
        machine
    }

    fn place(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Builds a package into a directory, by this name; needs `lib` in its own version if it is `app`.
    fn build(&self, name: &str, version: &str, to: &str) -> LockedPackage {
        let (tree, file) = (self.place("tree"), self.place("built.deb"));
        let _none_yet = fs::remove_dir_all(&tree);
        fs::create_dir_all(format!("{tree}/DEBIAN")).unwrap();
        let needs = match name {
            "app" => format!("Depends: lib (= {version}), tool\n"),
            _ => String::new(),
        };
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@example.com>\n{needs}Description: A test.\n"
        );
        fs::write(format!("{tree}/DEBIAN/control"), control).unwrap();
        run(&format!(
            "dpkg-deb --root-owner-group --build '{tree}' '{file}' >/dev/null"
        ));
        let sha256 = String::from_utf8(run(&format!("sha256sum <'{file}'"))).unwrap();
        let sha256 = sha256.split(' ').next().unwrap().to_owned();
        let size = fs::metadata(&file).unwrap().len();
        fs::rename(&file, self.place(&format!("{to}/{sha256}.deb"))).unwrap();
        LockedPackage {
            name: name.into(),
            version: version.into(),
            architecture: "all".into(),
            size,
            sha256,
            url: "http://127.0.0.1:9/gone.deb".into(),
        }
    }

    fn shell(&self, text: &str) -> Output {
        Command::new("/bin/sh")
            .args(["-eu", "-c", text])
            .env("APT_CONFIG", self.place("apt.conf"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs scripts one after the other with the places of this machine.
    fn run(&self, scripts: &[Script]) -> Output {
        let mut last = None;
        for script in scripts {
            let text = script
                .text
                .replace("/run/piaas-bake/debs", &self.place("kept"))
                .replace("/var/cache/piaas-bake", &self.place("here"))
                .replace("etc=/etc/apt", &format!("etc={}", self.place("etc")))
                .replace("unset APT_CONFIG", "");
            let output = self.shell(&text);
            let is_over = !output.status.success();
            last = Some(output);
            if is_over {
                break;
            }
        }
        last.unwrap()
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

#[test]
fn packages_that_are_named_move_and_what_is_locked_stays() {
    if !["apt-get", "dpkg-deb"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok())
    {
        eprintln!("left out: apt-get or dpkg-deb is not installed");
        return;
    }
    let machine = Machine::new();
    let lock = |recipe: &str, packages: &[(&str, &str)]| {
        let packages = packages
            .iter()
            .map(|(name, version)| machine.build(name, version, "kept"));
        Lock::new(recipe, [], Vec::new(), packages.collect())
    };
    let (base, web) = (
        lock("base", &[("tool", "1")]),
        lock("web", &[("app", "1"), ("lib", "1"), ("zip", "1:1~x+1")]),
    );
    for name in ["app", "lib", "tool"] {
        machine.build(name, "2", "archive");
    }
    machine.build("zip", "1:2", "archive");
    // Apart from it, as a mirror has its indexes.
    run(&format!(
        "cd '{}' && for file in *.deb; do dpkg-deb --field $file; echo \"Filename: ./$file\nSize: $(stat -c %s $file)\n\
         SHA256: $(sha256sum <$file | cut -d ' ' -f 1)\n\"; done >Packages",
        machine.place("archive")
    ));
    let line = [("base", &base), ("web", &web)];
    let pinned = |moved: &[&str]| {
        let moved: Vec<String> = moved.iter().map(|name| (*name).to_owned()).collect();
        pins(&line, &moved, &["app".to_owned(), "zip".to_owned()])
    };
    assert_pleases_shellcheck(&pinned(&["app"])[1].text);

    // The layer below has been provisioned.
    let below = guards("base", Some(&base), false).0.unwrap();
    let done = machine.run(&[below]);
    assert!(done.status.success(), "{}", said(&done));
    // Its library has to move with it, and all of that is said at once.
    let refused = machine.run(&pinned(&["app"]));
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(MISMATCH), "{text}");
    let command = format!("{MOVE_TOO}piaas-bake lock web --update app lib\n");
    assert!(text.ends_with(&command), "{text}");

    let done = machine.run(&pinned(&["app", "lib"]));
    assert!(done.status.success(), "{}", said(&done));
    let installs = said(&machine.shell("apt-get --simulate install app zip"));
    for part in [
        "Inst app (2 ",
        "Inst lib (2 ",
        "Inst tool (1 ",
        "Inst zip (1:1~x+1 ",
    ] {
        assert!(installs.contains(part), "{part}: {installs}");
    }

    // What a layer below has locked is said to be there.
    let app = fs::read_to_string(machine.place("archive/Packages")).unwrap();
    fs::write(
        machine.place("archive/Packages"),
        app.replace(
            "Depends: lib (= 2), tool",
            "Depends: lib (= 2), tool (>= 2)",
        ),
    )
    .unwrap();
    let refused = machine.run(&pinned(&["app", "lib"]));
    let text = String::from_utf8_lossy(&refused.stdout);
    let command = format!("{MOVE_TOO}piaas-bake lock base --update tool\n");
    assert!(text.ends_with(&command), "{text}");
    // A name that only a step's own archive has is no fault here.
    let done = machine.run(&pinned(&["app", "lib", "tool", "docker"]));
    assert!(done.status.success(), "{}", said(&done));
}
