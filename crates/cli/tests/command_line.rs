//! The command line itself: help, completions, wrong use.

#![cfg(unix)]

mod support;

use support::Sandbox;

#[test]
fn every_command_explains_itself_with_examples() {
    let sandbox = Sandbox::new();
    let help = sandbox.run(&["--help"]).success();
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A description that goes on in the next line is indented further.
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 10, "{help}");
    for command in commands {
        let help = sandbox.run(&[command, "--help"]).success();
        assert!(help.contains("Examples:\n  edgeward "), "{command}: {help}");
    }
}

#[test]
fn completions_know_the_commands() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.run(&["completions", shell]).success();
        assert!(script.contains("pull") && script.contains("models"), "{shell}");
    }
}

#[test]
fn wrong_use_is_told_on_standard_error() {
    let sandbox = Sandbox::new();
    for args in
        [&["frobnicate"][..], &["pull"], &["rm"], &["completions", "dos"], &["pull", "--frobnicate", "x"]]
    {
        let ran = sandbox.run(args);
        assert_eq!(ran.code, Some(2));
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
    // Without any command the help is shown, but it is not a success.
    let ran = sandbox.run(&[]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("Usage: edgeward"), "{}", ran.stderr);
}
