//! The script that installs trees, run by a real shell.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[test]
fn a_tree_is_installed_and_installed_again() {
    let kitchen = Kitchen::new();
    let target = kitchen.dir().join("root/it's here");
    kitchen
        .recipe(
            "a",
            &format!(
                "files:\n  - {{ path: \"{}\", tree: files }}\n",
                target.display()
            ),
        )
        .put("a/files/sub/run", "run")
        .put("a/files/text", "text");
    let files = kitchen.dir().join("a/files");
    fs::set_permissions(files.join("sub/run"), PermissionsExt::from_mode(0o700)).unwrap();
    symlink("../text", files.join("sub/link")).unwrap();
    fs::create_dir_all(&target).unwrap();
    fs::set_permissions(&target, PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(target.join("other"), "stays").unwrap();

    let resolved = recipe::load(kitchen.dir(), "a", &recipe::Given::default()).unwrap();
    let layers = render(&resolved, b"agent").unwrap();
    let layer = &layers[0];
    assert_eq!(layer.provision[0].id, "a/step-001-trees");
    assert_eq!(layer.provision[0].title, "Install 1 tree");
    assert_eq!(layer.directories.len(), 2);
    assert_eq!(layer.links[0].target, "../text");
    let out = kitchen.dir().join("bundle");
    write_dir(&layers, "", &out).unwrap();
    let user = String::from_utf8(run("id -un")).unwrap();
    let group = String::from_utf8(run("id -gn")).unwrap();
    // Files belong to root, which this test may not be.
    let script = layer.provision[0].text.replace(
        " 'root' 'root' ",
        &format!(" '{}' '{}' ", user.trim(), group.trim()),
    );
    let mode = |path: &str| {
        let about = fs::symlink_metadata(target.join(path)).unwrap();
        about.permissions().mode() & 0o7777
    };
    for _ in 0..2 {
        let status = Command::new("/bin/sh")
            .args(["-c", &script])
            .env("PIAAS_BUNDLE", &out)
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(mode("sub/run"), 0o755);
        assert_eq!(mode("text"), 0o644);
        assert_eq!(mode("sub"), 0o755);
        // What was there stays as it was.
        assert_eq!(mode(""), 0o700);
        assert_eq!(fs::read_to_string(target.join("other")).unwrap(), "stays");
        let link = fs::read_link(target.join("sub/link")).unwrap();
        assert_eq!(link, Path::new("../text"));
    }
    assert_pleases_shellcheck(&layer.provision[0].text);
}
