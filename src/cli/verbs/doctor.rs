//! `doctor`: whether this host can run the local cloud.

use serde_json::json;

use crate::cli::args::{DoctorArgs, Format};
use crate::cli::context::Context;
use crate::cli::error::{CliError, CliResult};
use crate::cli::{exit, output};
use crate::localcloud::doctor::{self, Check};

pub fn run(context: &Context, args: &DoctorArgs) -> CliResult {
    let config = context.doctor_config();
    let mut checks = doctor::checks(&config);
    if args.fix && checks.iter().any(|check| !check.passed()) {
        doctor::fix(&checks, &|line| output::note(line))
            .map_err(|error| CliError::failure("cannot install what is missing").because(&error))?;
        checks = doctor::checks(&config);
    }
    match context.format {
        Format::Json => {
            let list: Vec<_> = checks
                .iter()
                .map(|check| {
                    json!({
                        "check": check.name,
                        "passed": check.passed(),
                        "required": check.required,
                        "message": check.message,
                        "way_out": check.way_out,
                    })
                })
                .collect();
            output::json(&json!({ "checks": list }))?;
        }
        Format::Human => {
            let lines: String = checks.iter().map(|check| line(context, check)).collect();
            output::data(&lines)?;
        }
    }
    let failed = checks
        .iter()
        .filter(|check| check.required && !check.passed())
        .count();
    if failed == 0 {
        return Ok(exit::DONE);
    }
    let error = CliError::failure(format!(
        "this host cannot run the local cloud: {failed} of {} checks failed",
        checks.len()
    ));
    Err(if checks.iter().any(doctor::Check::fixable) {
        error.hint("`piaas-bake doctor --fix` installs what is missing")
    } else {
        error
    })
}

fn line(context: &Context, check: &Check) -> String {
    let style = context.out;
    let mark = match (check.passed(), check.required) {
        (true, _) => style.tick(),
        (false, true) => style.cross(),
        (false, false) => style.dim("-"),
    };
    let optional = if check.required || check.passed() {
        ""
    } else {
        " (optional)"
    };
    let way_out = check
        .way_out
        .as_ref()
        .filter(|_| !check.passed())
        .map(|way| format!("\n    {way}"))
        .unwrap_or_default();
    format!(
        "{mark} {}: {}{optional}{way_out}\n",
        check.name, check.message
    )
}
