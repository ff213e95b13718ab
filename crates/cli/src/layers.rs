//! Options of `serve` from a file and from the environment, for services: what is not on the command line is taken from
//! `EDGEWARD_SERVE_<OPTION>`, and what is not there from the file that `--config` names.
//!
//! Both are put into the command line before it is read, so that there is one set of names, checks and messages.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// The command that has such options.
const COMMAND: &str = "serve";
/// Its option that names the file.
const CONFIG: &str = "config";
const VARIABLE_PREFIX: &str = "EDGEWARD_SERVE_";
/// A file of options is a page or two.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The command line with what file and environment add to it. One that is wrong in itself is left as it is, for whoever
/// reads it next says so.
///
/// # Errors
/// If the file cannot be read, or names an option that there is not.
pub fn arguments(
    args: Vec<OsString>,
    command: &Command,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, String> {
    let Ok(matches) = command.clone().try_get_matches_from(&args) else { return Ok(args) };
    let Some((COMMAND, given)) = matches.subcommand() else { return Ok(args) };
    let command = command.find_subcommand(COMMAND).expect("it has just been found");
    let options: Vec<&Arg> = command.get_arguments().filter(|option| is_for_services(option)).collect();

    let is_given =
        |option: &Arg| given.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine);
    let mut added: Vec<OsString> = Vec::new();
    let mut is_set: Vec<&Arg> = options.iter().copied().filter(|option| is_given(option)).collect();
    for option in &options {
        let name = format!("{VARIABLE_PREFIX}{}", name(option).to_uppercase().replace('-', "_"));
        if let Some(value) = variable(&name).filter(|_| !is_set.contains(option)) {
            let text = value.to_string_lossy();
            match text.as_ref() {
                "true" | "1" if is_flag(option) => push(&mut added, option, None),
                "false" | "0" | "" if is_flag(option) => {}
                _ if is_flag(option) => return Err(format!("{name} must be true or false, not {text:?}")),
                // Several are separated by spaces, which no name of a model or a host has.
                _ => text.split_whitespace().for_each(|value| push(&mut added, option, Some(value))),
            }
            is_set.push(option);
        }
    }
    if let Some(path) = config_path(given, &variable) {
        for (key, value) in read(&path)? {
            let option = options.iter().find(|option| name(option) == key).ok_or_else(|| {
                format!("{}: there is no option {key:?}; `edgeward serve --help` names them", path.display())
            })?;
            let wrong = || format!("{}: {key} cannot be of type {}", path.display(), value.type_str());
            let values = match &value {
                toml::Value::Boolean(value) if is_flag(option) => {
                    if *value && !is_set.contains(option) {
                        push(&mut added, option, None);
                    }
                    continue;
                }
                _ if is_flag(option) => return Err(wrong()),
                toml::Value::Array(values) => values.iter().map(text).collect::<Option<Vec<_>>>(),
                value => text(value).map(|text| vec![text]),
            };
            for value in values.ok_or_else(wrong)?.iter().filter(|_| !is_set.contains(option)) {
                push(&mut added, option, Some(value));
            }
        }
    }
    // Behind the command's name, as `--` may come later.
    let at = args.iter().position(|arg| arg == COMMAND).expect("it has just been found") + 1;
    let mut all = args;
    all.splice(at..at, added);
    Ok(all)
}

/// All but the way here, and help.
fn is_for_services(option: &Arg) -> bool {
    !["config", "help", "version", "quiet"].contains(&option.get_id().as_str())
}

/// The name on the command line without its dashes; that of a positional argument is its own.
fn name(option: &Arg) -> &str {
    option.get_long().unwrap_or(option.get_id().as_str())
}

fn is_flag(option: &Arg) -> bool {
    !option.get_action().takes_values()
}

fn push(args: &mut Vec<OsString>, option: &Arg, value: Option<&str>) {
    match (option.get_long(), value) {
        (Some(name), None) => args.push(format!("--{name}").into()),
        (Some(name), Some(value)) => args.push(format!("--{name}={value}").into()),
        (None, Some(value)) => args.push(value.into()),
        (None, None) => unreachable!("a positional argument has a value"),
    }
}

fn text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

fn config_path(given: &ArgMatches, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = given.get_one::<PathBuf>(CONFIG).cloned();
    path.or_else(|| variable(&format!("{VARIABLE_PREFIX}CONFIG")).map(PathBuf::from))
}

fn read(path: &Path) -> Result<toml::Table, String> {
    let cannot =
        |error: &dyn std::fmt::Display| format!("could not read the options in {}: {error}", path.display());
    let size_bytes = std::fs::metadata(path).map_err(|error| cannot(&error))?.len();
    if size_bytes > MAX_FILE_BYTES {
        return Err(cannot(&format!("it has {size_bytes} bytes, more than {MAX_FILE_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
    text.parse().map_err(|error| cannot(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn given(args: &[&str], variables: &[(&str, &str)], file: &str) -> Result<Vec<String>, String> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let path = path.path().to_str().unwrap();
        let args: Vec<OsString> = args.iter().map(|arg| arg.replace("FILE", path).into()).collect();
        let variable = |name: &str| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| OsString::from(value.replace("FILE", path)))
        };
        let all = arguments(args, &crate::Cli::command(), variable)?;
        Ok(all.iter().map(|arg| arg.to_str().unwrap().replace(path, "FILE")).collect())
    }

    #[test]
    fn the_command_line_goes_before_the_environment_before_the_file() {
        let file = "models = [\"a\", \"b\"]\nport = 1\nqueue = 2\nrequire-keys = true\ninsecure = false\n\
                    tls-name = [\"x\", \"y\"]\n";
        let variables = [("EDGEWARD_SERVE_QUEUE", "3"), ("EDGEWARD_SERVE_PARALLEL", "4")];
        let all =
            given(&["edgeward", "-q", "serve", "--config", "FILE", "--port=5", "--", "c"], &variables, file);
        assert_eq!(
            all.unwrap().join(" "),
            "edgeward -q serve --parallel=4 --queue=3 --require-keys --tls-name=x --tls-name=y --config FILE \
             --port=5 -- c"
        );
        let variables = [("EDGEWARD_SERVE_CONFIG", "FILE"), ("EDGEWARD_SERVE_REQUIRE_KEYS", "false")];
        let all = given(&["edgeward", "serve"], &variables, file).unwrap().join(" ");
        assert_eq!(all, "edgeward serve a b --port=1 --queue=2 --tls-name=x --tls-name=y");
    }

    #[test]
    fn other_commands_and_wrong_command_lines_are_left_alone() {
        for args in [&["edgeward", "run", "serve"][..], &["edgeward", "serve", "--nonsense"], &["edgeward"]] {
            assert_eq!(given(args, &[("EDGEWARD_SERVE_PORT", "1")], "").unwrap(), args);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let serve = ["edgeward", "serve", "--config", "FILE"];
        for (file, wanted) in [
            ("prot = 1", "no option \"prot\""),
            ("help = true", "no option \"help\""),
            ("require-keys = 1", "require-keys cannot be of type integer"),
            ("models = [{}]", "models cannot be of type array"),
            ("port = ", "could not read the options"),
        ] {
            let error = given(&serve, &[], file).unwrap_err();
            assert!(error.contains(wanted), "{file}: {error}");
        }
        let error = given(&serve, &[("EDGEWARD_SERVE_INSECURE", "yes")], "").unwrap_err();
        assert!(error.contains("EDGEWARD_SERVE_INSECURE must be true or false"), "{error}");
        assert!(given(&["edgeward", "serve", "--config", "/nowhere"], &[], "").is_err());
    }
}
