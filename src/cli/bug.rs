//! A bug ends like any other failure: one message, a way out, and exit code 70.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{CliError, CliResult};
use super::exit;

/// Does the work of a verb. What it panics of is a failure with exit code [`exit::BUG`]; the place has been printed by
/// then, as every panic's is.
///
/// # Errors
/// Those of the verb.
pub fn caught(verb: impl FnOnce() -> CliResult) -> CliResult {
    // Nothing of the verb's is looked at after it has panicked.
    catch_unwind(AssertUnwindSafe(verb)).unwrap_or_else(|panic| Err(bug(panic.as_ref())))
}

fn bug(panic: &(dyn Any + Send)) -> CliError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let mut error = CliError::new(
        exit::BUG,
        format!("this is a bug in piaas-bake {}", env!("CARGO_PKG_VERSION")),
    );
    error.causes.extend(text.map(str::to_owned));
    error
        .hint("please report the command line, and what it prints with RUST_BACKTRACE=1 set")
        .hint("what a bake has left is removed by: piaas-bake cloud gc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_has_a_code_of_its_own_and_says_what_to_do() {
        let number = 7;
        let error = caught(|| panic!("seven is {number}")).unwrap_err();
        assert_eq!(error.code, 70);
        assert_eq!(error.causes, ["seven is 7"]);
        assert_eq!(error.hints.len(), 2);
        let error = caught(|| panic!("constant")).unwrap_err();
        assert_eq!((error.code, error.causes.concat()), (70, "constant".into()));
        assert_eq!(caught(|| Ok(3)).unwrap(), 3);
    }
}
