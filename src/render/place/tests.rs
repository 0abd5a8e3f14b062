use super::*;
use crate::render::tags;

fn whys(text: &str) -> Vec<Misplaced> {
    misplaced(text, &tags::scan(text, tags::Dialect::Script))
        .into_iter()
        .map(|(_, why)| why)
        .collect()
}

#[test]
fn a_word_may_stand_where_the_shell_reads_words() {
    for good in [
        "echo {{ a }}",
        "grep -x \"worker: \"{{ a }}\"$id, master: \"{{ b }}':'{{ c }}",
        "x=\"$(cat {{ a }})\"",
        "x=\"$(case $y in a) cat {{ a }} ;; (b) ;; esac)\"; echo {{ b }}",
        "# it's fine\necho {{ a }}",
        "cat <<'E'\nit's\nE\necho {{ a }}",
        "cat <<-E\n\t\"\n\tE\necho {{ a }}",
        "echo $((1 + (2))) {{ a }}",
        "echo ${x:-{{ a }}}",
        "echo a#b {{ a }}",
        "echo ${#x} {{ a }}",
        "echo \\' {{ a }}",
        "cat <<<word {{ a }}",
        "echo \"${x:-'}\" {{ a }}",
        "{% if b %}sudo {% else %}\"$x\" {% endif %}cat {{ a }}",
        "{% for b in c %}echo '{' {{ a }}\n{% endfor %}",
        "$(grep case x) {{ a }}",
        "x=$(if case $y in (a|b) true ;; *) false ; esac then echo {{ a }}; fi) {{ b }}",
        "cat <<'E'; cat <<\\F\nit's\nE\n\"\nF\necho {{ a }}",
        "cat <<E\n$(date) ${x} `y`\nE\necho {{ a }}",
        "x=$(cat <<'E'\nit's\nE\n); echo {{ a }}",
        "echo $'a\\n' {{ a }}",
        "for ((i = 0; i < 3; i++)); do echo {{ a }}; done",
        "[[ $x =~ ^(a|b)$ ]] && echo {{ a }}",
        "echo {{ a -}}\n{{ b }}",
        "f() { echo {{ a }}; }",
        "echo \\\n  {{ a }}",
    ] {
        assert_eq!(whys(good), [], "{good}");
    }
}

#[test]
fn elsewhere_it_is_named() {
    for (bad, why) in [
        ("echo \"{{ a }}\"", QUOTED),
        ("echo '{{ a }}'", QUOTED),
        ("echo \"${x:-{{ a }}}\"", QUOTED),
        ("echo \"$(echo '{{ a }}')\"", QUOTED),
        ("# {{ a }}", COMMENT),
        ("true; # {{ a }}", COMMENT),
        ("cat <<E\n{{ a }}\nE", HEREDOC),
        ("cat <<'E' && x\nb\n{{ a }}\nE", HEREDOC),
        ("echo $(({{ a }} + 1))", ARITHMETIC),
        ("echo `cat {{ a }}`", BACKTICKS),
        ("echo \\{{ a }}", BACKSLASH),
        ("echo ${{ a }}", DOLLAR),
        // `case` is a word like others where no command begins.
        ("\"$(grep case x) {{ a }}\"", QUOTED),
        ("\"$(x=1 case y) {{ a }}\"", QUOTED),
        ("\"$(case x in case) echo ;; esac) {{ a }}\"", QUOTED),
        // The blanks that a tag takes away are not there.
        ("# x\n{{- a }}", COMMENT),
        ("echo \\ {{- a }}", BACKSLASH),
        ("echo $ {{- a }}", DOLLAR),
        ("echo $\\\n{{ a }}", LOST),
        // Documents begin after the line, and end where their delimiter says.
        ("cat <<''\n{{ a }}\n\n", HEREDOC),
        ("cat <<'E F'\nE\n{{ a }}\nE F\n", HEREDOC),
        ("cat <<E\nx\\\nE\n{{ a }}\nE\n", HEREDOC),
        ("cat <<E \"x\n\" \nE\n\" {{ a }}\"", QUOTED),
        ("cat <<E\n\\\nE\n{{ a }}\nE\n", LOST),
        ("cat <<E\n$(cat\nE\n)\nE\n{{ a }}", LOST),
        ("echo \"$(cat <<E)\"\nE\n{{ a }}", LOST),
        ("cat <<{{ a }}", HEREDOC),
        // Where the shells differ.
        ("echo $'\\' {{ a }} '", LOST),
        ("echo \"${x#'\"'}\" {{ a }}", LOST),
        ("((x<<2))\n{{ a }}", LOST),
        ("$((echo a); echo b) {{ a }}", LOST),
        ("echo ${x:{{ a }}:1}", PARAMETER),
        ("echo $((${x:-{{ a }}}))", ARITHMETIC),
        ("echo `echo '` ' {{ a }} '", QUOTED),
        ("a\\\n#b' {{ a }} '", QUOTED),
        // A branch that leaves a quote open, and one that may end a document.
        ("{% if b %}'{% endif %} x {{ a }}", LOST),
        ("{% if b %}'{% else %}'{% endif %}{{ a }}'", LOST),
        ("{% for b in c %}\"{% break %}\"{% endfor %}{{ a }}", LOST),
        ("cat <<E\n{% if b %}E{% endif %}\n\"\nE\n{{ a }}", LOST),
        ("{% if b %}cat <<E\n{% endif %}\"\nE\n{{ a }}", LOST),
        ("a{% if b %} {% endif %}# ' \n{{ a }}' ", LOST),
        ("{% if b %}${% endif %}{{ a }}", DOLLAR),
        ("\\{% if b %}x{% endif %}{{ a }}", LOST),
    ] {
        assert_eq!(whys(bad), [why], "{bad}");
    }
}
