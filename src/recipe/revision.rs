//! The recipes of a revision of git, written to a directory as a checkout would write them.
//!
//! Nothing of the repository is changed: the index is a temporary one, and no branch, worktree or reference is touched.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The recipes of a revision cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    #[error("cannot run git: {0}; install git, it holds the recipes of earlier revisions")]
    NoGit(std::io::Error),
    #[error("{} is not in a git repository that can be read: {said}", dir.display())]
    NoRepository { dir: PathBuf, said: String },
    #[error("there is no revision `{rev}` in this repository")]
    NoRevision { rev: String },
    #[error(
        "there is no revision `{rev}` in this clone, which is shallow: fetch the whole history, with \
         `git fetch --unshallow`, or `fetch-depth: 0` of actions/checkout"
    )]
    Shallow { rev: String },
    #[error("`git {command}` failed: {said}")]
    Git { command: String, said: String },
    #[error("cannot use {}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// The recipes as they were.
#[derive(Debug)]
pub struct Revision {
    /// Gone with this value.
    dir: tempfile::TempDir,
    recipes: PathBuf,
}

impl Revision {
    /// The directory of the recipes; it does not exist if the revision had none.
    #[must_use]
    pub fn recipes(&self) -> &Path {
        &self.recipes
    }

    /// Writes the recipes that the directory `recipes` held at `rev`. A revision of zeros only is the one before the
    /// first: it holds nothing (git's null object id, in the events of GitHub the parent of a new branch).
    ///
    /// # Errors
    /// [`RevisionError`].
    pub fn checkout(recipes: &Path, rev: &str) -> Result<Self, RevisionError> {
        let dir = tempfile::Builder::new()
            .prefix("piaas-bake-revision")
            .tempdir()
            .map_err(|source| RevisionError::Io {
                path: std::env::temp_dir(),
                source,
            })?;
        if matches!(rev.len(), 40 | 64) && rev.bytes().all(|byte| byte == b'0') {
            let recipes = dir.path().join("none");
            return Ok(Self { dir, recipes });
        }
        let git = Git {
            at: recipes,
            index: None,
        };
        let said = |error| match error {
            RevisionError::Git { said, .. } => RevisionError::NoRepository {
                dir: recipes.to_path_buf(),
                said,
            },
            other => other,
        };
        let top = git.line(&["rev-parse", "--show-toplevel"]).map_err(said)?;
        let prefix = git.line(&["rev-parse", "--show-prefix"])?;
        let commit = commit(&git, rev)?;
        let index = dir.path().join("index");
        let git = Git {
            at: Path::new(&top),
            index: Some(&index),
        };
        git.run(&["read-tree", &commit], b"")?;
        let place = if prefix.is_empty() { "." } else { &prefix };
        let files = git.run(&["--literal-pathspecs", "ls-files", "-z", "--", place], b"")?;
        let tree = dir.path().join("tree");
        let to = format!("--prefix={}/", tree.display());
        git.run(&["checkout-index", "--quiet", "-z", "--stdin", &to], &files)?;
        let recipes = tree.join(&prefix);
        Ok(Self { dir, recipes })
    }

    /// The directory that everything is in, to take it off paths that people read.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// The full id of a commit.
fn commit(git: &Git<'_>, rev: &str) -> Result<String, RevisionError> {
    let unknown = || RevisionError::NoRevision {
        rev: rev.to_owned(),
    };
    // git would read these as an option, or as a list of revisions.
    if rev.is_empty() || rev.starts_with(['-', '^']) || rev.contains("..") {
        return Err(unknown());
    }
    let name = format!("{rev}^{{commit}}");
    match git.line(&["rev-parse", "--verify", "--quiet", &name]) {
        Ok(id) => Ok(id),
        Err(RevisionError::Git { .. }) => {
            let shallow = git.line(&["rev-parse", "--is-shallow-repository"])?;
            Err(if shallow == "true" {
                RevisionError::Shallow {
                    rev: rev.to_owned(),
                }
            } else {
                unknown()
            })
        }
        Err(other) => Err(other),
    }
}

struct Git<'a> {
    at: &'a Path,
    index: Option<&'a Path>,
}

impl Git<'_> {
    /// Runs git and gives what it printed.
    fn run(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, RevisionError> {
        let mut command = Command::new("git");
        command
            .args(args)
            .current_dir(self.at)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(index) = self.index {
            command.env("GIT_INDEX_FILE", index);
        }
        let failed = |source| RevisionError::Io {
            path: self.at.to_path_buf(),
            source,
        };
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound if !self.at.is_dir() => failed(error),
            _ => RevisionError::NoGit(error),
        })?;
        // Commands that read a list read all of it before they print; one that does not read at all may have ended.
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    return Err(failed(error));
                }
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it gave no reason");
        Err(RevisionError::Git {
            command: args.join(" "),
            said: said.trim_start_matches("fatal: ").to_owned(),
        })
    }

    /// The one line that git prints.
    fn line(&self, args: &[&str]) -> Result<String, RevisionError> {
        let printed = self.run(args, b"")?;
        Ok(String::from_utf8_lossy(&printed)
            .trim_end_matches('\n')
            .to_owned())
    }
}
