//! Whatever a recipe of 1 MiB says, it is rendered or refused in bounded time and memory.

use std::time::Duration;

use super::*;
use crate::process::within;
use crate::recipe::{Given, load, load_for_lint};

#[track_caller]
fn soon<T>(work: impl FnOnce() -> T) -> T {
    within(Duration::from_secs(20), "it", work)
}

#[test]
fn texts_that_grow_without_limit_are_refused_with_a_way_out() {
    let doubled = "{% set a = a ~ a %}".repeat(40);
    let many: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    let parameters = [
        ("big", string(&"x\n".repeat(100_000))),
        ("many", Value::List(many)),
    ];
    let big = "{{ big }}".repeat(100);
    let wide = format!("{{{{ \"{}\" }}}}", "x".repeat(3000));
    for (template, message, help) in [
        (
            "{% for a in range(end=10000) %}{% for b in range(end=10000) %}x{% endfor %}{% endfor %}",
            "repeat more than 256 MiB",
            "let the script loop",
        ),
        (
            "{% for a in many %}{% for b in many %}{% for c in many %}{% endfor %}{% endfor %}{% endfor %}",
            "repeat more than 256 MiB",
            "fewer items",
        ),
        (
            "{% for a in range(end=10001) %}x{% endfor %}",
            "more than 10000 items",
            "`seq`",
        ),
        (
            &format!("{{% set a = 'x' %}}{doubled}"),
            "longer than 65536 bytes",
            "one after the other",
        ),
        (
            "{{ big | replace(from='x', to='yyyyyyyyyy') }}",
            "longer than 65536 bytes",
            "without `set` and filters",
        ),
        (
            "{{ big | indent(width=100000000000) }}",
            "longer than 65536 bytes",
            "filters",
        ),
        (
            "{{ many | join(sep=big) }}",
            "longer than 65536 bytes",
            "filters",
        ),
        (
            "{% for a in range(end=1000) %}BIG{% endfor %}",
            "longer than 16777216 bytes",
            "fetch it",
        ),
        (
            "{{ [a for a in many] }}",
            "an expression cannot loop",
            "{% for",
        ),
        (&wide, "longer than 2048 bytes", "several of it"),
    ] {
        let template = template.replace("BIG", &big);
        for dialect in [Dialect::Script, Dialect::Plain] {
            let said = soon(|| refusal(&template, dialect, &parameters));
            assert!(said.contains(message) && said.contains(help), "{said}");
            assert!(said.contains("t:1:"), "{said}");
        }
    }
}

/// An expression can work on its values again and again, and make long texts of them that nobody sees.
#[test]
fn what_expressions_work_on_is_counted() {
    let many: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
    let parameters = [
        ("big", string(&"\"\n<".repeat(300_000))),
        ("many", Value::List(many)),
    ];
    let times = |text: &str, times: usize, between: &str| vec![text; times].join(between);
    let nested = |open: &str, close: &str, levels: usize| {
        format!(
            "{{{{ {}'\"'{} | length }}}}",
            open.repeat(levels),
            close.repeat(levels)
        )
    };
    let much = "repeat more than 256 MiB of texts and values";
    let long = "longer than 65536 bytes";
    let refused = [
        (
            format!("{{% if {} == 'x' %}}{{% endif %}}", times("big", 200, "~")),
            much,
        ),
        (
            format!(
                "{{% if 1 == 2 %}}{{% elif {} %}}{{% endif %}}",
                times("big", 200, "~")
            ),
            much,
        ),
        (
            format!("{{% for a in {} %}}{{% endfor %}}", times("big", 200, "~")),
            much,
        ),
        (
            "{% for a in range(end=10000) %}{{ big | upper | length }}{% endfor %}".into(),
            much,
        ),
        ("{{ big | length }}".repeat(1000), much),
        ("{{ many | unique | length }}".into(), much),
        (
            format!("{{{{ [{}] | length }}}}", times("...many", 200, ", ")),
            much,
        ),
        (
            format!("{{{{ 'x' {} }}}}", " | split(pat='~') | str".repeat(40)),
            long,
        ),
        (nested("(", "|split(pat='~') ~ '')", 30), long),
        (
            nested("([", " | str] | join(sep=''))", 1).replace("'\"'", "many"),
            long,
        ),
        ("{{ big | split(pat='') | length }}".into(), long),
        (
            "{{ __tera_context | length }}".into(),
            "cannot use all values",
        ),
        (
            format!(
                "{{% if many %}}{}{{% endif %}}",
                "{%- elif many %}".repeat(40_000)
            ),
            "the 251st `elif`",
        ),
        (
            format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000)),
            "longer than 2048 bytes",
        ),
        ("{% if many %}".repeat(60_000), "nesting is too deep"),
    ];
    for (template, message) in &refused {
        for dialect in [Dialect::Script, Dialect::Plain] {
            let found = soon(|| text(template, dialect, &parameters)).unwrap_err();
            let first = &found.0[0];
            assert!(
                first.message.contains(message),
                "{template:.80}: {}",
                first.message
            );
            assert!(
                first.location.is_some() && first.help.is_some(),
                "{}",
                first.message
            );
        }
    }
    let escapes = format!("{{{{ big {} | length }}}}", "| escape_html".repeat(20));
    let found = soon(|| text(&escapes, Dialect::Plain, &parameters)).unwrap_err();
    assert!(found.0[0].message.contains(long), "{}", found.0[0].message);
    // tera itself takes no deeper ones; none of these is long.
    for levels in 1..40 {
        let maps = nested("({'a': ", "} ~ '')", levels);
        if let Ok(length) = soon(|| text(&maps, Dialect::Plain, &parameters)) {
            assert!(length.len() < 8, "{levels}: {length}");
        }
    }
    // All texts together, though each is short enough.
    let mut renderer = Renderer::new(&BTreeMap::from([("big".into(), parameters[0].1.clone())]));
    let mut found = Diagnostics::default();
    let most = (0..1000).take_while(|_| {
        let origin = Origin::File(Path::new("t"));
        let text = "{{ big }}".repeat(10);
        renderer
            .render(&text, origin, Dialect::Plain, &mut found)
            .is_some()
    });
    assert_eq!(most.count(), 29);
    assert!(found.to_string().contains(much), "{found}");
}

/// As deep as a template may be, on a stack of 2 MiB.
#[test]
fn a_template_of_the_deepest_kind_is_rendered() {
    let branches = "{% elif n == 1 %}".repeat(250);
    let inner = format!("{{% if n == 2 %}}{branches}{{% else %}}x{{% endif %}}");
    let deep = format!(
        "{}{inner}{}",
        "{% if true %}".repeat(30),
        "{% endif %}".repeat(30)
    );
    let deep = move || text(&deep, Dialect::Script, &[("n", Value::Integer(0))]);
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let made = thread.spawn(deep).unwrap().join().unwrap();
    assert_eq!(made.unwrap(), "x");
}

/// What is put into a template to count and to measure leaves no trace in what it becomes.
#[test]
fn texts_within_the_limits_are_as_tera_makes_them() {
    for template in [
        "{% for a in l -%}\n  {{ a }}\n{%- endfor %}",
        "{%- for a in l %} {{ a }}{% if loop.last %}.{% else %}, {% endif %}{% endfor -%} x",
        "{% for a in nothing %}x{% else %}empty{% endfor %}{% set b = 'c' %}{{ b }}",
        "{% set b = l | join(sep='--') %}{{ b | indent(width=2, first=true) | replace(from='-', to='+') }}",
        "{% set d = l | first | escape_xml %}{%- if d == 'p' and l | length > 1 -%} {{- d ~ d -}} {% elif d -%} y {%- endif %}",
        "{% set e = `<&a\"'>` %} {{- e | escape_html | str }} {{ e | escape_xml | split(pat=';') | unique }}",
        "{% if nothing %}a{% elif l is containing(pat='p') and not nothing %}{{ l | str | split(pat='q') }}{% endif %}",
        "{% for a in range(start=7, end=-2, step_by=-3) %}{{ a }};{% endfor %}",
        "{% for a in range(end=7, step_by=3) %}{% for b in range(end=a) %}{{ b }}{% endfor %}{% endfor %}",
    ] {
        let expected = tera::Tera::one_off(
            template,
            &tera::Context::from_serialize(
                &serde_json::json!({ "l": ["p", "q\nr"], "nothing": [] }),
            )
            .unwrap(),
            false,
        );
        let parameters = [("l", list(&["p", "q\nr"])), ("nothing", list(&[]))];
        let made = text(template, Dialect::Plain, &parameters);
        assert_eq!(made.unwrap(), expected.unwrap(), "{template}");
    }
}

/// 20,000 places that are wrong are looked at once, and so is a text with 4,000.
#[test]
fn a_recipe_that_is_wrong_in_every_place_is_refused_soon() {
    let kitchen = Kitchen::new();
    let steps: String = (0..20_000)
        .map(|n| format!("  - {{ name: s{n}, run: \"echo {{{{ x{n} }}}}\" }}\n"))
        .collect();
    let quoted = format!(
        "  - name: x\n    run: >-\n      {}\n",
        "echo \"{{ a }}\" ".repeat(4000)
    );
    let line = format!(
        "steps: [{}]\n",
        "{ name: x, run: 'echo {{ y }}' }, ".repeat(20_000)
    );
    for rest in [
        format!("steps:\n{steps}"),
        format!("steps:\n{quoted}"),
        line,
    ] {
        kitchen.recipe("a", &rest);
        let said = soon(|| render(&load_for_lint(kitchen.dir(), "a").unwrap(), &[])).unwrap_err();
        assert_eq!(said.0.len(), 101);
    }
}

/// Each is within the limit of a file, and both together are not.
#[test]
fn the_files_of_a_line_have_one_limit() {
    let kitchen = Kitchen::new();
    kitchen
        .put("a/large", "")
        .put("b/t/large", "")
        .recipe("a", "files: [{ path: /a, source: large }]\n")
        .on(
            "b",
            "{ recipe: a, version: ^1 }",
            "files: [{ path: /b, tree: t }]\nsteps: [{ name: x, run: \"echo '{{ y }}'\" }]\n",
        );
    for file in ["a/large", "b/t/large"] {
        let file = std::fs::File::options()
            .write(true)
            .open(kitchen.dir().join(file));
        file.unwrap().set_len(300 << 20).unwrap();
    }
    let resolved = load(kitchen.dir(), "b", &Given::default()).unwrap();
    let said = render(&resolved, &[]).unwrap_err().to_string();
    assert!(
        said.contains("b/recipe.yaml:6:9") && said.contains("more than 536870912 bytes"),
        "{said}"
    );
    assert!(said.contains("`y` is not defined"), "{said}");
}
