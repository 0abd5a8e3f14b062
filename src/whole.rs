//! Files that are whole or not there.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};

/// Writes a file so that a reader sees the old bytes or the new ones, whatever becomes of this process.
///
/// # Errors
/// The file system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Writes a file anew among those of people, for all to read: the old one or the new one is there, after a power cut too.
///
/// What is written lies beside its place, under a name that goes by the file's. What a process has left there that died is
/// taken by the next one, so it does not pile up in a directory that people look at.
///
/// # Errors
/// It cannot be written; the old one stays.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (beside, _held) = written(path, 0o644, |file| file.write_all(bytes))?;
    std::fs::rename(&beside, path)
}

/// As [`replace`], but only where there is none yet, and with these permissions.
///
/// # Errors
/// It cannot be written, or there is one (`AlreadyExists`), which stays.
pub fn create(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let (beside, _held) = written(path, mode, write)?;
    rename_to_new(&beside, path).inspect_err(|_| {
        // The failure itself is what counts.
        let _ = std::fs::remove_file(&beside);
    })
}

/// Makes a directory with all that is in it: it is whole, or not there. One that is there and empty is filled where it is.
///
/// # Errors
/// It cannot be written, or there is something else there already (`AlreadyExists`), which stays.
pub fn fill(dir: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => {
            if entries.next().is_none() {
                return write(dir);
            }
            let message = format!("{} is not empty", dir.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let beside = beside(dir);
    let _held = take(&beside, || match std::fs::create_dir(&beside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(&beside),
    })?;
    let clear = || {
        for entry in std::fs::read_dir(&beside)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    let done = clear()
        .and_then(|()| write(&beside))
        .and_then(|()| rename_to_new(&beside, dir));
    done.inspect_err(|_| {
        let _ = std::fs::remove_dir_all(&beside);
    })
}

/// Renames to a name that nothing has (renameat2(2)).
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Where a file lies while it is written, and stays if its process dies.
#[must_use]
pub fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// What is beside the file now, synced; it is nobody else's while the second value lives.
fn written(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<(PathBuf, File)> {
    let beside = beside(path);
    let mut file = take(&beside, || {
        File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&beside)
    })?;
    let done = file
        .set_len(0)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| write(&mut file))
        .and_then(|()| file.sync_all());
    if let Err(error) = done {
        // The failure itself is what counts.
        let _ = std::fs::remove_file(&beside);
        return Err(error);
    }
    Ok((beside, file))
}

/// Opens what has this name, new or left by one that died; waits while another process writes it.
fn take(beside: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    loop {
        let file = open()?;
        flock(&file, FlockOperation::LockExclusive)?;
        // Whoever had it before may have moved it to its place.
        let own = file.metadata()?;
        match std::fs::symlink_metadata(beside) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_one_that_died_has_left_is_taken_and_nothing_stays_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.lock");
        std::fs::write(dir.path().join(".recipe.lock.new"), "longer, and torn").unwrap();
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        let failed = create(&path, 0o600, |file| file.write_all(b"another"));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let plan = dir.path().join("plan");
        let failed = create(&plan, 0o600, |_| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(names(dir.path()), ["recipe.lock"]);
        create(&plan, 0o600, |file| file.write_all(b"mine")).unwrap();
        assert_eq!(names(dir.path()), ["plan", "recipe.lock"]);
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&plan), mode(&path)), (0o600, 0o644));
    }

    #[test]
    fn a_directory_is_there_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("below/out");
        let left = dir.path().join("below/.out.new/sub");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("torn"), "half").unwrap();
        let failed = fill(&out, |to| {
            std::fs::write(to.join("one"), "1")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(names(&dir.path().join("below")), [] as [String; 0]);
        fill(&out, |to| std::fs::write(to.join("one"), "1")).unwrap();
        assert_eq!(names(&out), ["one"]);
        let failed = fill(&out, |_| Ok(()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        fill(&empty, |to| std::fs::write(to.join("two"), "2")).unwrap();
        assert_eq!(names(dir.path()), ["below", "empty"]);
        assert_eq!(names(&empty), ["two"]);
    }

    #[test]
    fn those_who_write_the_same_file_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let writes = &|number: u8| {
            for _ in 0..50 {
                replace(&path, &vec![number; 1000 + usize::from(number)]).unwrap();
                let read = std::fs::read(&path).unwrap();
                assert_eq!(read, vec![read[0]; 1000 + usize::from(read[0])]);
            }
        };
        std::thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || writes(number));
            }
        });
        assert_eq!(names(dir.path()), ["file"]);
    }
}
