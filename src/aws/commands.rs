//! The commands that messages name, with what the connection needs: pasted, they act where this call acted.

/// Services of the AWS CLI whose commands we name.
const SERVICES: [&str; 6] = [
    "autoscaling",
    "ec2",
    "resourcegroupstaggingapi",
    "s3api",
    "ssm",
    "sts",
];

/// Verbs of ours that commands begin with.
const VERBS: [&str; 15] = [
    "bake", "cloud", "config", "doctor", "fleet", "gc", "images", "lint", "plan", "rebake",
    "render", "roll", "runs", "show", "why",
];

/// Completes commands for one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commands {
    /// Options for ours, each with a blank before it.
    own: String,
    /// Options for the AWS CLI, each with a blank before it.
    aws: String,
    local: bool,
}

impl Commands {
    /// For AWS. The region and the profile are those that the AWS CLI would not find by itself.
    #[must_use]
    pub fn aws(own: &[(&str, &str)], region: Option<&str>, profile: Option<&str>) -> Self {
        let of_aws = [("--region", region), ("--profile", profile)];
        let of_aws: Vec<(&str, &str)> = of_aws
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        Self {
            own: options(own),
            aws: options(&of_aws),
            local: false,
        }
    }

    /// For the local cloud, which the AWS CLI reaches while it is served. Without its address a shell that expands
    /// `:?` refuses the command (POSIX.1-2024, 2.6.2): it never goes to AWS.
    #[must_use]
    pub fn local(own: &[(&str, &str)], region: &str) -> Self {
        let own = options(own);
        let aws = format!(
            "{} --endpoint-url \"${{AWS_ENDPOINT_URL:?first paste the line that this prints: piaas-bake{own} cloud serve}}\"",
            options(&[("--region", region)])
        );
        Self {
            own,
            aws,
            local: true,
        }
    }

    /// Whether they are for the local cloud.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// A command of ours: `cloud gc`, with the options that were given.
    #[must_use]
    pub fn own(&self, words: &str) -> String {
        format!("piaas-bake{} {words}", self.own)
    }

    /// A text with all its commands completed; those that are complete stay as they are.
    #[must_use]
    pub fn complete(&self, text: &str) -> String {
        let words: Vec<&str> = text.split(' ').collect();
        let mut out = String::with_capacity(text.len());
        for (at, word) in words.iter().enumerate() {
            if at > 0 {
                out.push(' ');
            }
            let before = |back: usize| at.checked_sub(back).map_or("", |at| bare(words[at]));
            let next = words.get(at + 1).copied().unwrap_or_default();
            let ours = bare(word) == "piaas-bake" && VERBS.contains(&bare(next));
            let is_complete = !next.is_empty() && self.aws.split(' ').nth(1) == Some(next);
            let operation = before(2) == "aws" && SERVICES.contains(&before(1)) && !is_complete;
            if ours {
                out.push_str(word);
                out.push_str(&self.own);
            } else if operation {
                // What follows the operation without a blank ends the sentence around it.
                let (name, rest) = word.split_at(bare_end(word));
                out.push_str(name);
                out.push_str(&self.aws);
                out.push_str(rest);
            } else {
                out.push_str(word);
            }
        }
        out
    }
}

fn options(given: &[(&str, &str)]) -> String {
    given
        .iter()
        .map(|(name, value)| format!(" {name} {}", quote(value)))
        .collect()
}

/// A word for a shell: names of groups and paths may hold blanks.
#[must_use]
pub fn quote(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), std::borrow::Cow::into_owned)
}

/// Where the characters of a command's word end.
fn bare_end(word: &str) -> usize {
    word.trim_end_matches(|char: char| !char.is_ascii_alphanumeric())
        .len()
}

/// A word without the quotation marks and brackets around it.
fn bare(word: &str) -> &str {
    word[..bare_end(word)].trim_start_matches(['`', '(', '\''])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_the_options_that_were_given() {
        let given = [("--cloud", "aws"), ("--state-dir", "/a b")];
        assert_eq!(
            Commands::aws(&given, None, None).own("cloud gc"),
            "piaas-bake --cloud aws --state-dir '/a b' cloud gc"
        );
        let aws = Commands::aws(&[("--cloud", "aws")], Some("eu-west-1"), Some("ci"));
        assert_eq!(
            aws.complete("see `piaas-bake images list`, or: aws ssm start-session --target i-1"),
            "see `piaas-bake --cloud aws images list`, or: aws ssm start-session --region eu-west-1 \
             --profile ci --target i-1"
        );
        assert_eq!(
            aws.complete("(aws ec2 get-console-output) by piaas-bake: done"),
            "(aws ec2 get-console-output --region eu-west-1 --profile ci) by piaas-bake: done"
        );
        let once = aws.complete("run piaas-bake fleet run and aws ec2 describe-instances");
        assert_eq!(aws.complete(&once), once);
    }

    #[test]
    fn without_the_address_of_the_local_cloud_a_shell_refuses_its_commands() {
        let local = Commands::local(&[("--state-dir", "/x")], "us-east-1");
        let command = local.complete("aws autoscaling describe-auto-scaling-groups");
        let script = format!("aws() {{ echo \"went to $*\"; }}\n{command}");
        let run = |address: Option<&str>| {
            let mut shell = std::process::Command::new("/bin/sh");
            shell.arg("-c").arg(&script).env_remove("AWS_ENDPOINT_URL");
            shell.envs(address.map(|address| ("AWS_ENDPOINT_URL", address)));
            let output = shell.output().unwrap();
            (
                String::from_utf8(output.stdout).unwrap(),
                String::from_utf8(output.stderr).unwrap(),
            )
        };
        let (out, said) = run(None);
        assert_eq!(out, "");
        assert!(
            said.contains("piaas-bake --state-dir /x cloud serve"),
            "{said}"
        );
        let (out, _) = run(Some("http://127.0.0.1:1"));
        assert!(
            out.ends_with("--endpoint-url http://127.0.0.1:1\n"),
            "{out}"
        );
    }
}
