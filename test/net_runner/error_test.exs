defmodule NetRunner.ErrorTest do
  use ExUnit.Case, async: true

  alias NetRunner.{Command, Error, Result}

  doctest Error

  test "an executable that is not there comes with the PATH it was looked for in" do
    assert message({:exec, :enoent}, command: Command.new("nope", ["-a"]), path: "/bin:/usr/bin") ==
             "cannot execute \"nope\": no such file (PATH was /bin:/usr/bin)\nthe command was: [\"nope\", \"-a\"]"

    assert message({:exec, :enoent}, command: Command.new("./nope"), path: "/bin") =~
             "cannot execute \"./nope\": no such file, or the interpreter of its #! line or its loader is missing\n"
  end

  test "every reason of execve(2) says what to look at" do
    command = Command.new("prog", ["abc", String.duplicate("x", 100)])
    assert message({:exec, :eacces}, command: command) =~ "cannot execute \"prog\": permission denied"
    assert message({:exec, :enoexec}, command: command) =~ "without a #! line"
    assert message({:exec, :e2big}, command: command) =~ "the arguments (103 bytes, the longest 100) and the"

    assert message({:exec, :etxtbsy}, command: command) =~
             "cannot execute \"prog\": text file or pseudo-device busy (etxtbsy)"

    assert message({:exec, :enoent}, []) =~ "cannot execute the command: no such file or directory"
  end

  test "a directory that cannot be entered is named" do
    command = Command.new("ls", [], cd: "/nope")

    assert message({:cd, :enoent}, command: command) =~
             "cannot run in the directory \"/nope\": no such file or directory"

    assert message({:cd, :enotdir}, []) =~ "cannot run in the directory: not a directory (enotdir)"
  end

  test "other stages have the errno in words, and where to look" do
    assert message({:pipe, :emfile}, []) ==
             "cannot make a pipe: too many open files (emfile) (the limit of this VM, `ulimit -n`, is reached)"

    assert message({:fork, :eagain}, []) =~
             "cannot make a process: resource temporarily unavailable (eagain) (a limit"

    assert message({:fds, :emfile}, []) =~ "cannot hand the file descriptors"
    assert message({:setup, :eperm}, []) =~ "cannot set the new process up: not owner (eperm)"
    assert message({:socket, :emfile}, []) =~ "cannot make a control socket: too many open files"
    assert message({:send, :etoomanyrefs}, []) =~ "on their way"
    assert message({:fork_server, :enoent}, []) =~ "priv/shepherd"
    assert message({:fork_server, :eof}, []) =~ "ended before it was ready"
    assert message({:kill, :eperm}, []) =~ "refused the signal"
    assert message({:fork, :eunknown}, []) == "cannot make a process: :eunknown"
    assert message({:other, :enotsup}, []) =~ "failed before the command ran (other): "
  end

  test "a control group says where to look" do
    command = Command.new("true", [], cgroup_path: "a/../b")

    assert message({:invalid_cgroup_path, :dot_dot}, command: command) =~
             "not a path for a control group \"a/../b\": a part of it is \"..\""

    command = Command.new("true", [], cgroup_path: "a")

    assert message({:cgroup, {:create, :eacces}}, command: command) =~
             "make the control group \"a\": permission denied"

    assert message({:cgroup, {:create, :eacces}}, []) =~ ":cgroup_root"
    assert message({:cgroup, {:enable, :ebusy}}, []) =~ "a group with processes in it"
    assert message({:cgroup, {:join, :eacces}}, []) =~ "started inside"
    assert message({:cgroup, {:mount, :enoent}}, []) =~ "no cgroup2 file system"
    assert message({:cgroup, {:root, :enoent}}, []) =~ ":cgroup_root"
    assert message({:cgroup, {:memory_max, :enotsup}}, []) =~ "the limit :memory_max"

    assert message({:cgroup, {:cpuset_cpus, :einval}}, []) =~
             "the limit :cpuset_cpus of a control group: invalid argument"
  end

  test "an exit has its status, its signal, and the end of stderr" do
    assert message({:exit_status, 3}, status: 3, stderr: "a\nb\n", command: Command.new("sh")) == """
           the command exited with status 3
           its stderr ends with:
               a
               b
           the command was: ["sh"]\
           """

    assert message({:exit_status, 127}, []) =~ "status 127 (in a shell: a command was not found)"
    assert message({:exit_status, 126}, []) =~ "cannot be executed"
    assert message({:exit_status, 143}, []) =~ "status 143 (in a shell: a command was ended by SIGTERM)"
    assert message({:exit_status, 255}, []) == "the command exited with status 255"
    assert message({:signal, :sigsegv}, status: 139) == "the command was ended by SIGSEGV"
    assert message({:signal, :sigkill}, status: 137) =~ "killed by SIGKILL (was it the out-of-memory killer?"
  end

  test "stderr that is no text does not break the message" do
    text = message({:exit_status, 1}, stderr: <<"caf", 233, 0, 255>>)
    assert String.valid?(text)
    assert text =~ "caf"
  end

  test "what was stopped says by which option" do
    assert message(:timeout, []) =~ ":timeout"
    assert message({:timeout, %Result{}}, []) =~ ":timeout"
    assert message(:idle_timeout, []) =~ ":idle_timeout"
    assert message({:idle_timeout, %Result{}}, []) =~ ":idle_timeout"
    assert message({:max_output_exceeded, "12345"}, []) =~ "more than its :max_output_size of 5 bytes"
    assert message({:max_output_exceeded, %Result{stdout: "12345"}}, []) =~ "of 5 bytes"
    assert message({:max_output_exceeded, ["12345"]}, []) =~ "more than its :max_output_size and"
  end

  test "every invalid command has a text" do
    for why <- [:empty, :not_a_list, :not_a_binary, :empty_executable, :nul_byte] do
      assert message({:invalid_cmd, why}, []) =~ "not a command: "
    end

    for why <- [:not_a_list, :not_a_binary, :nul_byte] do
      assert message({:invalid_args, why}, command: Command.new("a", "b")) =~ "invalid arguments: "
    end
  end

  test "what the options have asked for is named where it is known" do
    with_options = fn opts -> [command: Command.new("a", [], opts)] end
    text = message({:stderr, :eacces}, with_options.(stderr: {:append, "/x/y"}))
    assert text =~ ~s(cannot open "/x/y" for stderr: permission denied \(eacces\))
    assert message({:stdout, :ebadf}, with_options.(stdout: :inherit)) =~ "cannot open the VM's own stdout: "
    assert message({:stdout, :enxio}, []) =~ "the file for stdout"
    assert message({:user, :enoent}, with_options.(user: "bob")) =~ ~s(there is no such user "bob")
    assert message({:group, :enoent}, with_options.(user: 7)) =~ "the user 7 has no passwd entry"
    assert message({:group, :enoent}, with_options.(user: 7, group: "g")) =~ ~s(no such group "g")

    assert message({:groups, :eio}, with_options.(groups: [1])) =~
             "cannot look up groups [1]: I/O error (eio)"

    text = message({:rlimits, {:nofile, :eperm}}, with_options.(rlimits: [nofile: {1, 2}]))
    assert text =~ "cannot set the limit :nofile to {1, 2}: "
    assert message({:cd, :eacces}, with_options.(user: "bob")) =~ ~s(the directory "." as the user "bob": )
    refute message({:cd, :enoent}, with_options.(user: "bob")) =~ "as the user"
  end

  test "the other reasons have texts" do
    assert message({:unkillable, [12, 34]}, []) =~ "12, 34 still alive five seconds after SIGKILL"
    assert message(:shepherd_died, []) =~ "the shepherd"
    assert message(:no_fork_server, []) =~ "fork server"
    assert message(:protocol, []) =~ "same build"
    assert message(:closed, []) =~ "closed"
    assert message(:epipe, []) =~ "nobody reads"
    assert message(:not_running, []) =~ "not running"
    assert message(:unknown_signal, []) =~ ":sigterm"
    assert message(:eio, []) == "I/O error (eio)"
  end

  test "a long command is cut" do
    command = Command.new("echo", for(_ <- 1..10_000, do: String.duplicate("x", 1_000)))
    assert byte_size(message(:timeout, command: command)) < 2_000
  end

  defp message(reason, fields), do: Exception.message(struct!(Error, [reason: reason] ++ fields))
end
