//! Time-outs and size limits of HTTP through the running appliance, each with what it counts.

use anyhow::Result;
use flowdog_tests::lab::Lab;

#[test]
fn threat_27_28_slow_peers_and_large_messages_are_ended_told_and_counted() -> Result<()> {
    let outcome = Lab::new()?
        .config(
            "[proxy]\nhead = \"4KiB\"\ntarget = \"1KiB\"\nheader-count = 20\nhead-time = \"1s\"\n\
             body-rate = \"1000B\"\nbody-time = \"1s\"\nidle-time = \"3s\"\nsniff-time = \"1s\"\n\
             [[rule]]\naction = \"intercept\"\n",
        )?
        .python(include_str!("http/limits.py"))?;
    println!("{}", outcome.stdout);
    assert!(outcome.stdout.contains("ALL 14"), "{}", outcome.stdout);
    for (fault, count) in [
        ("head-too-large", 2.0),
        ("slow-body", 2.0),
        ("slow-head", 2.0),
        ("target-too-long", 2.0),
        ("too-many-fields", 1.0),
    ] {
        let counted = outcome.metric("flowdog_http_refused_total", &format!("\"{fault}\""));
        assert!(counted >= count, "{fault}: {counted}");
    }
    let idle = outcome.metric("flowdog_flows_failed_total", "idle");
    assert!(idle >= 2.0, "idle: {idle}");
    let undecided = outcome.metric("flowdog_http_limits_total", "sniff-time");
    assert!(undecided >= 1.0, "undecided: {undecided}");
    Ok(())
}

#[test]
fn errors_of_flowdogs_own_are_styled_and_echo_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let page = lab.folder().join("error.html");
    std::fs::write(
        &page,
        "<style>p {color: red}</style><p>{{status}} {{reason}}: {{text}}</p>\n",
    )?;
    let lab = lab.config(&format!(
        "[proxy]\ntarget = \"1KiB\"\nerror-page = {page:?}\n\
         [proxy.error-texts]\ntarget-too-long = \"<b>Shorter</b>, please.\"\n\
         [[interceptor]]\nname = \"strict\"\nuse = \"edit-body\"\nwhen = 'path == \"/gzip\"'\n\
         response = [{{ find = \"a+\", replace = \"b\" }}]\nmax-body = \"1B\"\nover-limit = \"fail\"\n\
         [[rule]]\naction = \"intercept\"\ninterceptors = [\"strict\"]\n"
    ))?;
    let outcome = lab.shell(
        "for version in --http1.1 --http2; do \
           curl -sS $version -w '%{content_type}\\n' https://any.lab.name/gzip; \
         done; \
         curl -sS -D - \"http://any.lab.name/evil<script>$(head -c 2000 /dev/zero | tr '\\0' x)\"",
    )?;
    let out = &outcome.stdout;
    let failed = "<p>502 interceptor-failed: The request could not be processed.</p>\ntext/html; charset=utf-8\n";
    assert_eq!(out.matches(failed).count(), 2, "{out}");
    assert!(out.contains("x-flowdog-error: target-too-long"), "{out}");
    assert!(
        out.contains("<p>414 target-too-long: <b>Shorter</b>, please.</p>"),
        "{out}"
    );
    assert!(!out.contains("evil"), "{out}");
    Ok(())
}
