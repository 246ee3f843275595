//! A command in a group of its own: born in it, ended with it, and the group is gone afterwards.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use protocol::{CgroupLimitName, CgroupStep, Event, Exit, Request, Stage};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::*;

const NO_SUCH_FILE: i32 = 2;
const NOT_SUPPORTED: i32 = 95;
const KILLED: Exit = Exit::Signal { signal: 9, core_dumped: false };

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn the_command_and_what_it_forks_at_once_are_in_the_leaf() {
    let Some(group) = Group::new("born") else { return };
    let fork_server = ForkServer::start();
    let script = "cat /proc/self/cgroup & cat /proc/$$/cgroup; wait";
    let (command, mut stdout) = sh(script).cgroup(group.request("a/b", 'a')).stdout();
    let mut session = fork_server.run(command);
    let (exit, stats) = session.finish_with_stats();
    assert_eq!(exit, Exit::Status(0));
    let output = stdout.text();
    let own: Vec<&str> = output.lines().filter(|line| line.starts_with("0::")).collect();
    assert_eq!(own.len(), 2);
    assert!(own.iter().all(|line| line.ends_with("/a/b/nr-aaaaaaaaaaaaaaaa")), "{own:?}");
    assert!(stats.cpu_us.unwrap() > 0, "{stats:?}");
    assert_eq!(group.below(), [""; 0], "the levels that were made are gone");
}

/// clone3(2) refused, as sandboxes and old kernels do: the command goes there by itself.
#[test]
fn where_it_cannot_be_born_there_it_joins_before_it_does_anything() {
    for errno in ["ENOSYS", "EPERM", "E2BIG", "EINVAL"] {
        let Some(group) = Group::new("joins") else { return };
        let mut refusing = std::process::Command::new(fixture());
        let fork_server = ForkServer::start_with(refusing.args(["without", errno, "clone3", &shepherd()]));
        let (command, mut stdout) =
            cmd(["cat", "/proc/self/cgroup"]).cgroup(group.request("a", 'a')).stdout();
        let (exit, _) = fork_server.run(command).finish_with_stats();
        assert_eq!(exit, Exit::Status(0), "{errno}");
        assert!(stdout.text().lines().any(|line| line.ends_with("/a/nr-aaaaaaaaaaaaaaaa")), "{errno}");
        // As another user, who could not join.
        if rustix::process::geteuid().is_root() {
            let credentials =
                protocol::Credentials { uid: Some(64_300), gid: Some(64_300), groups: Some(vec![]) };
            let (command, mut stdout) = cmd(["cat", "/proc/self/cgroup"]).cd("/").stdout();
            let command =
                command.cgroup(group.request("a", 'b')).edit(|spawn| spawn.credentials = Some(credentials));
            assert_eq!(fork_server.run(command).finish_with_stats().0, Exit::Status(0));
            assert!(stdout.text().lines().any(|line| line.ends_with("/a/nr-aaaaaaaaaaaaaaab")), "{errno}");
        }
        assert_eq!(group.below(), [""; 0]);
    }
}

#[test]
fn the_command_has_no_fd_of_it_and_its_shepherd_two() {
    let Some(group) = Group::new("fds") else { return };
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(cmd(["sleep", "1000"]).cgroup(group.request("a", 'a')));
    let command = session.started();
    assert_eq!(open_files(command), ["/dev/null"; 3]);
    let leaf = group.leaf("a", 'a').to_str().unwrap().to_owned();
    let of_group: Vec<String> = open_files(parent_of(command).unwrap())
        .into_iter()
        .filter(|file| file.contains(group.0.to_str().unwrap()))
        .collect();
    assert_eq!(of_group, [leaf.clone(), format!("{leaf}/cgroup.events")]);
    session.send(&Request::Stop);
    session.exited();
    session.done_with_stats();
    assert_eq!(group.below(), [""; 0]);
}

#[test]
fn what_cannot_start_leaves_no_group() {
    let Some(group) = Group::new("fails") else { return };
    let fork_server = ForkServer::start();
    let failure = |command: Cmd| fork_server.run(command).failure();
    let command = |argv| cmd([argv]).cgroup(group.request("a/b", 'a'));
    assert_eq!(failure(command("/nowhere")), (Stage::Exec, NO_SUCH_FILE));
    let step = |step| Stage::Cgroup(step);
    let rootless = command("/bin/true").edit(|spawn| {
        spawn.cgroup.as_mut().unwrap().root = b"/nowhere".to_vec();
    });
    assert_eq!(failure(rootless), (step(CgroupStep::Root), NO_SUCH_FILE));
    // A file of the group above, where a level should be.
    const NOT_A_DIRECTORY: i32 = 20;
    let file = cmd(["/bin/true"]).cgroup(group.request("cgroup.procs/b", 'a'));
    assert_eq!(failure(file), (step(CgroupStep::Create), NOT_A_DIRECTORY));
    assert_eq!(group.below(), [""; 0]);
}

/// Where the controllers are not there, as on a hybrid host.
#[test]
fn a_limit_that_cannot_be_had_is_named_before_anything_is_made() {
    let Some(group) = Group::new("limits") else { return };
    let controllers = fs::read_to_string(group.0.join("cgroup.controllers")).unwrap();
    let fork_server = ForkServer::start();
    for (limit, value) in [
        (CgroupLimitName::MemoryMax, "1000000"),
        (CgroupLimitName::PidsMax, "10"),
        (CgroupLimitName::CpuMax, "1000 100000"),
        (CgroupLimitName::IoWeight, "10"),
    ] {
        if controllers.split_whitespace().any(|controller| controller == limit.controller()) {
            continue;
        }
        let command = cmd(["/bin/true"]).cgroup(group.request("a", 'a')).limit(limit, value);
        let failure = (Stage::Cgroup(CgroupStep::Limit(limit)), NOT_SUPPORTED);
        assert_eq!(fork_server.run(command).failure(), failure);
    }
    assert_eq!(group.below(), [""; 0]);
}

#[test]
fn a_daemon_and_a_stranger_in_the_leaf_die_and_nobody_else() {
    let Some(group) = Group::new("dies") else { return };
    fs::create_dir(group.0.join("old")).unwrap();
    let sleeper = || std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let (mut beside, mut inside) = (sleeper(), sleeper());
    fs::write(group.0.join("old/cgroup.procs"), beside.id().to_string()).unwrap();

    let fork_server = ForkServer::start();
    let script = "setsid sh -c 'trap \"\" TERM; echo $$; exec sleep 1000' & exec sleep 1000";
    let (command, mut stdout) = sh(script).cgroup(group.request("old/new", 'a')).kill_timeout(50).stdout();
    let mut session = fork_server.run(command);
    session.started();
    let daemon = Watch::new(stdout.line().parse().unwrap());
    // No descendant of the shepherd's: only the group tells that it is there.
    fs::write(group.leaf("old/new", 'a').join("cgroup.procs"), inside.id().to_string()).unwrap();
    session.send(&Request::Stop);
    session.exited();
    session.done_with_stats();
    assert!(daemon.has_ended());
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(inside.wait().unwrap().signal(), Some(9));
    assert_eq!(beside.try_wait().unwrap(), None);
    assert_eq!(group.below(), ["old"], "it was there before");
    beside.kill().unwrap();
    beside.wait().unwrap();
    fs::remove_dir(group.0.join("old")).unwrap();
}

#[test]
fn after_the_exit_who_is_in_the_leaf_has_kill_timeout_and_is_then_ended() {
    use std::os::unix::process::ExitStatusExt as _;
    let Some(group) = Group::new("exit") else { return };
    let fork_server = ForkServer::start();
    for (kill_timeout, signal, status) in [(10_000, None, Some(5)), (50, Some(9), None)] {
        // No descendant of the shepherd's.
        let mut inside = std::process::Command::new("sh")
            .args(["-c", "read line; exit 5"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (reader, writer) = pipe();
        let command = sh("read line").fd(0, reader).cgroup(group.request("a", 'a'));
        let mut session = fork_server.run(command.kill_timeout(kill_timeout));
        session.started();
        fs::write(group.leaf("a", 'a').join("cgroup.procs"), inside.id().to_string()).unwrap();
        drop(writer);
        session.exited();
        if status.is_some() {
            drop(inside.stdin.take());
        }
        session.done_with_stats();
        let ended = inside.wait().unwrap();
        assert_eq!((ended.signal(), ended.code()), (signal, status));
        assert_eq!(group.below(), [""; 0]);
    }
}

#[test]
fn groups_that_the_command_has_made_go_with_it() {
    let Some(group) = Group::new("nested") else { return };
    let fork_server = ForkServer::start();
    let leaf = group.leaf("a", 'a');
    let script = "cd \"$0\" && mkdir -p b/c d && echo $$ >b/c/cgroup.procs && echo ready && exec sleep 1000";
    let (command, mut stdout) =
        cmd(["sh", "-c", script, leaf.to_str().unwrap()]).cgroup(group.request("a", 'a')).stdout();
    let mut session = fork_server.run(command);
    let os_pid = session.started();
    assert_eq!(stdout.line(), "ready");
    assert!(group_of(os_pid).ends_with("/b/c"));
    session.send(&Request::Stop);
    session.exited();
    session.done_with_stats();
    assert_eq!(group.below(), [""; 0]);
}

#[test]
fn what_is_frozen_ends_by_the_stop_signal_or_by_the_kill() {
    let Some(group) = Group::new("frozen") else { return };
    let fork_server = ForkServer::start();
    let thawed = (10_000, "", Exit::Status(3));
    // One that was frozen by itself inside the leaf stays so.
    let killed = (50, "/nested", KILLED);
    for (kill_timeout, frozen, exit) in [thawed, killed] {
        let leaf = group.leaf("a", 'a');
        let script =
            "mkdir \"$0/nested\"; echo $$ >\"$0$1/cgroup.procs\"; trap 'exit 3' TERM; echo ready; read line";
        let (reader, _writer) = pipe();
        let (command, mut stdout) = cmd(["sh", "-c", script, leaf.to_str().unwrap(), frozen])
            .fd(0, reader)
            .cgroup(group.request("a", 'a'))
            .stdout();
        let mut session = fork_server.run(command.kill_timeout(kill_timeout));
        session.started();
        assert_eq!(stdout.line(), "ready");
        let frozen = group.leaf("a", 'a').to_str().unwrap().to_owned() + frozen;
        fs::write(format!("{frozen}/cgroup.freeze"), "1").unwrap();
        let events = format!("{frozen}/cgroup.events");
        eventually("frozen", || fs::read_to_string(&events).unwrap().contains("frozen 1"));
        session.send(&Request::Stop);
        assert_eq!(session.exited().0, exit);
        session.done_with_stats();
        assert_eq!(group.below(), [""; 0]);
    }
}

/// It cannot exec, and nobody waits for it but its shepherd, who hears the VM all the same.
#[test]
fn a_command_that_is_born_frozen_can_be_ended() {
    let Some(group) = Group::new("born_frozen") else { return };
    fs::write(group.0.join("cgroup.freeze"), "1").unwrap();
    let fork_server = ForkServer::start();
    for stops in [true, false] {
        let mut session =
            fork_server.run(cmd(["sleep", "1000"]).cgroup(group.request("a", 'a')).kill_timeout(50));
        let procs = group.leaf("a", 'a').join("cgroup.procs");
        eventually("born", || fs::read_to_string(&procs).is_ok_and(|pids| !pids.is_empty()));
        if stops {
            session.send(&Request::Stop)
        } else {
            session.shutdown()
        }
        session.started();
        assert_eq!(session.exited().0, KILLED);
        session.done_with_stats();
        assert_eq!(group.below(), [""; 0]);
    }
}

#[test]
fn two_commands_under_one_path_do_not_meet_and_the_last_one_cleans_up() {
    let Some(group) = Group::new("two") else { return };
    let fork_server = ForkServer::start();
    let start = |leaf| fork_server.run(cmd(["sleep", "1000"]).cgroup(group.request("a/b", leaf)));
    let (mut first, mut second) = (start('a'), start('b'));
    let (_, survivor) = (first.started(), second.started());
    let end = |session: &mut Session| {
        session.send(&Request::Stop);
        session.exited();
        session.done_with_stats();
    };
    end(&mut first);
    assert!(exists(survivor) && group_of(survivor).ends_with("aaab"));
    end(&mut second);
    assert_eq!(group.below(), [""; 0]);
}

/// All of them make, sweep and remove the same levels: nobody may fail for that.
#[test]
fn many_at_once_make_and_remove_the_same_levels() {
    let Some(group) = Group::new("many") else { return };
    let fork_server = ForkServer::start();
    let leaves = ('a'..='z').cycle().take(26 * 8).collect::<Vec<_>>();
    for leaves in leaves.chunks(26) {
        let mut sessions: Vec<Session> = leaves
            .iter()
            .map(|leaf| {
                let mut session = fork_server.adopt();
                session.spawn(cmd(["/bin/true"]).cgroup(group.request("a/b", *leaf)));
                session
            })
            .collect();
        for session in &mut sessions {
            assert_eq!(session.finish_with_stats().0, Exit::Status(0));
        }
    }
    assert_eq!(group.below(), [""; 0]);
}

/// Fork server and shepherd killed: a descendant with a session of its own is left, until the next command under
/// the same path, or a sweep.
#[test]
fn what_the_dead_leave_is_ended_by_the_next_or_by_a_sweep() {
    let Some(group) = Group::new("left") else { return };
    fs::create_dir(group.0.join("old")).unwrap();
    for sweep in [true, false] {
        let fork_server = ForkServer::start();
        let script = "setsid sh -c 'mkdir \"$0/nested\"; echo $$; exec sleep 1000' \"$0\" & exec sleep 1000";
        let leaf = group.leaf("old/new", 'a');
        let (command, mut stdout) =
            cmd(["sh", "-c", script, leaf.to_str().unwrap()]).cgroup(group.request("old/new", 'a')).stdout();
        let mut session = fork_server.run(command);
        let os_pid = session.started();
        let daemon = Watch::new(stdout.line().parse().unwrap());
        let shepherd = parent_of(os_pid).unwrap();
        kill(fork_server.pid());
        wait_for_end(&fork_server.pidfd);
        kill(shepherd);
        assert_eq!(session.event(), None);
        assert!(!daemon.has_ended(), "or there is nothing to show");

        let fork_server = ForkServer::start();
        let mut next = fork_server.idle();
        if sweep {
            next.sweep(group.request("old/new", 'a'));
            next.done();
        } else {
            next.spawn(cmd(["/bin/true"]).cgroup(group.request("old/new", 'b')));
            next.finish_with_stats();
        }
        daemon.wait();
        assert_eq!(group.below(), ["old"]);
        assert!(!group.0.join("old/new").exists(), "the dead one had made it");
    }
    fs::remove_dir(group.0.join("old")).unwrap();
}

#[test]
fn a_sweep_of_what_is_gone_is_done_and_levels_of_others_stay() {
    let Some(group) = Group::new("gone") else { return };
    fs::create_dir(group.0.join("old")).unwrap();
    let inode = fs::metadata(group.0.join("old")).unwrap().ino();
    let fork_server = ForkServer::start();
    for path in ["old", "old/b", "c"] {
        let mut session = fork_server.idle();
        session.sweep(group.request(path, 'a'));
        session.done();
    }
    assert_eq!(fs::metadata(group.0.join("old")).unwrap().ino(), inode);
    fs::remove_dir(group.0.join("old")).unwrap();
}

/// A directory that only looks like a leaf, or whose shepherd lives, is none of the next command's business.
#[test]
fn living_leaves_and_strangers_directories_are_not_swept() {
    let Some(group) = Group::new("living") else { return };
    let fork_server = ForkServer::start();
    let mut living = fork_server.run(cmd(["sleep", "1000"]).cgroup(group.request("a", 'a')));
    let os_pid = living.started();
    fs::create_dir(group.0.join("a/nr-mine")).unwrap();
    let (exit, _) = fork_server.run(cmd(["/bin/true"]).cgroup(group.request("a", 'b'))).finish_with_stats();
    assert_eq!(exit, Exit::Status(0));
    assert!(exists(os_pid) && group.0.join("a/nr-mine").exists());
    living.send(&Request::Stop);
    assert_eq!(living.exited().0, Exit::Signal { signal: 15, core_dumped: false });
    living.done_with_stats();
    fs::remove_dir(group.0.join("a/nr-mine")).unwrap();
    fs::remove_dir(group.0.join("a")).unwrap();
}

#[test]
fn kept_leftovers_stay_in_the_group_until_they_end() {
    let Some(group) = Group::new("kept") else { return };
    let fork_server = ForkServer::start();
    let (reader, writer) = pipe();
    let script = "exec 3<&0; sh -c 'read line' <&3 & exit 3";
    let mut session = fork_server.run(sh(script).fd(0, reader).cgroup(group.request("a", 'a')).keep());
    session.started();
    assert_eq!(session.exited().0, Exit::Status(3));
    assert!(group.leaf("a", 'a').exists());
    drop(writer);
    session.done_with_stats();
    assert_eq!(group.below(), [""; 0]);
}

/// A file of a group that is gone is ready for ever (poll(2)).
#[test]
fn a_leaf_that_the_command_has_removed_is_not_waited_for() {
    let Some(group) = Group::new("removed") else { return };
    let fork_server = ForkServer::start();
    let (reader, writer) = pipe();
    let script = "echo $$ >\"$0/cgroup.procs\"; rmdir \"$1\"; exec 3<&0; sh -c 'read line' <&3 & exit 3";
    let leaf = group.leaf("a", 'a');
    let command = cmd(["sh", "-c", script, group.0.to_str().unwrap(), leaf.to_str().unwrap()]);
    let mut session = fork_server.run(command.fd(0, reader).cgroup(group.request("a", 'a')).keep());
    let shepherd = parent_of(session.started()).unwrap();
    assert_eq!(session.exited().0, Exit::Status(3));
    assert!(!leaf.exists());
    // For as long as it takes to use some of the processor itself.
    let (own, before) = (std::process::id().cast_signed(), processor_time(shepherd));
    let end = processor_time(own) + 40;
    while processor_time(own) < end {}
    let used = processor_time(shepherd) - before;
    assert!(used < 10, "{used} ticks");
    drop(writer);
    session.done_with_stats();
    assert_eq!(group.below(), [""; 0]);
}

/// The stream of events is in order, and a shepherd that is killed by the group's own kill file is none of it.
#[test]
fn a_group_that_somebody_else_kills_is_an_exit_like_any() {
    let Some(group) = Group::new("killed") else { return };
    let fork_server = ForkServer::start();
    let mut session = fork_server.run(sh("sleep 1000 & wait").cgroup(group.request("a", 'a')));
    session.started();
    fs::write(group.leaf("a", 'a').join("cgroup.kill"), "1").unwrap();
    assert_eq!(session.exited().0, KILLED);
    let stats = session.event();
    assert!(matches!(stats, Some(Event::Cgroup(_))), "{stats:?}");
    session.done();
    assert_eq!(group.below(), [""; 0]);
}
