defmodule NetRunner.OptionsTest do
  use ExUnit.Case, async: true

  alias NetRunner.Options

  doctest Options

  @functions [:run, :capture, :stream, :process, :daemon]

  test "without options every field has its default" do
    assert Options.new(:run, []) == %Options{
             input: nil,
             timeout: :infinity,
             idle_timeout: :infinity,
             max_output_size: :infinity,
             into: "",
             lines: nil,
             stdout: :pipe,
             stderr: :consume,
             stderr_tail_bytes: 8_192,
             env: [],
             cd: nil,
             umask: nil,
             arg0: nil,
             nice: nil,
             rlimits: [],
             user: nil,
             group: nil,
             groups: nil,
             kill_timeout: 5_000,
             stop_signal: 15,
             leftovers: :kill,
             pty: nil,
             cgroup_path: nil,
             cgroup: nil,
             success: [0],
             owner: self(),
             name: nil
           }
  end

  test "of an option that is given twice the first counts, as in every keyword list" do
    assert Options.new(:run, timeout: 1, timeout: 2).timeout == 1
  end

  test "an option that is given twice is checked twice" do
    assert_raise ArgumentError, fn -> Options.new(:run, timeout: 1, timeout: :never) end
  end

  test "of an environment only what is wrong is shown" do
    for env <- [%{"TOKEN" => "sesame", "PORT" => 80}, [{"TOKEN", "sesame"}, {"PORT", 80}]],
        env <- [env, {:replace, env}] do
      assert [said] = Regex.run(~r/Got: .*/s, message(:run, env: env))
      assert said == ~s(Got: [{"PORT", 80}])
    end
  end

  test "the name of the default signal in the documentation is that of the default" do
    assert NetRunner.Signal.resolve!(:sigterm) == %Options{}.stop_signal
    assert Options.docs(:run) =~ "`:stop_signal` (default `:sigterm`)"
  end

  test "the documentation has every option of the function, and no other" do
    for function <- @functions do
      documented = Regex.scan(~r/^\* `:(\w+)`/m, Options.docs(function), capture: :all_but_first)
      message = message(function, nonsense: 1)
      [allowed] = Regex.run(~r/one of (.*)/, message, capture: :all_but_first)
      assert Enum.map_join(documented, ", ", &":#{&1}") == allowed
    end
  end

  describe "the message of an error" do
    test "for an unknown option names the known ones" do
      assert message(:process, kil_timeout: 1) == """
             :kil_timeout is not an option of NetRunner.Process.
             Expected: one of :stdout, :stderr, :stderr_tail_bytes, :env, :cd, :umask, :arg0, :nice, :rlimits, \
             :user, :group, :groups, :kill_timeout, :stop_signal, :leftovers, :pty, :cgroup_path, :cgroup, :success, :owner, :name
             Got: :kil_timeout\
             """
    end

    test "for an option of another function says which" do
      assert message(:stream, timeout: 1) =~
               ":timeout is not an option of NetRunner.stream/2 (it is one of NetRunner.run/2, NetRunner.capture/2)."

      assert message(:run, owner: self()) =~ "(it is one of NetRunner.Process)"
      assert message(:process, input: "") =~ ":input is not an option of NetRunner.Process"
    end

    test "for a value says what was expected and what came" do
      assert message(:run, kill_timeout: -1) == """
             invalid value of the option :kill_timeout of NetRunner.run/2.
             Expected: milliseconds, an integer from 0 to 4294967295
             Got: -1\
             """

      assert message(:run, timeout: 1.5) =~ "from 0 to 4294967295, or :infinity\nGot: 1.5"
    end

    test "for what is no keyword list says so" do
      for opts <- [["-l"], %{timeout: 1}, nil, [:timeout], [{"timeout", 1}]] do
        assert message(:run, opts) =~ "Expected: a keyword list\nGot: #{inspect(opts)}"
      end
    end
  end

  describe "stderr" do
    test "has the modes of the function" do
      modes = [:consume, :capture, :stream, :pipe, :redirect, :disabled, :inherit]

      allowed = %{
        run: [:consume, :capture, :redirect, :disabled, :inherit],
        capture: [:consume, :capture, :redirect, :disabled, :inherit],
        stream: [:consume, :stream, :redirect, :disabled, :inherit],
        process: [:consume, :pipe, :redirect, :disabled, :inherit],
        daemon: [:consume, :pipe, :redirect, :disabled, :inherit]
      }

      for function <- @functions, mode <- modes do
        if mode in allowed[function] do
          assert Options.new(function, stderr: mode).stderr == mode
        else
          assert message(function, stderr: mode) =~
                   "Expected: one of #{Enum.map_join(allowed[function], ", ", &inspect/1)}, {:file, path}, {:append, path}\n" <>
                     "Got: #{inspect(mode)}"
        end
      end
    end
  end

  describe "outputs" do
    test "go to files in every function" do
      for function <- @functions, output <- [:stdout, :stderr], how <- [:file, :append] do
        options = Options.new(function, [{output, {how, "path"}}])
        assert Map.fetch!(options, output) == {how, "path"}

        for bad <- [{how, ""}, {how, "a\0b"}, {how, ~c"path"}, {how, :path}, {:write, "path"}, "path", nil] do
          assert message(function, [{output, bad}]) =~ "{:file, path}, {:append, path}\nGot: #{inspect(bad)}"
        end
      end
    end
  end

  test "limits have both their values, of which nil is none" do
    rlimits = [nofile: 256, as: {1, :infinity}, core: 0, stack: :infinity, core: 1]

    assert Options.new(:run, rlimits: rlimits).rlimits ==
             [{:nofile, 256, 256}, {:as, 1, nil}, {:core, 0, 0}, {:stack, nil, nil}]

    assert message(:run, rlimits: [files: 1]) =~ ":msgqueue, :nice, :nofile, :nproc"
  end

  describe "combinations that mean nothing" do
    test "raise, and say why" do
      assert message(:run, stdout: :disabled, into: []) =~
               "with stdout: :disabled there is no output to collect"

      assert message(:run, stdout: :disabled, lines: 80) =~ "there are no lines"
      assert message(:run, stdout: :disabled, max_output_size: 1) =~ "no output to limit"

      assert message(:run, stdout: :disabled, stderr: :redirect, idle_timeout: 1) =~
               "with stdout: :disabled and stderr: :redirect no output is ever seen"

      for mode <- [:redirect, :disabled, :pipe] do
        assert message(:process, stderr: mode, stderr_tail_bytes: 1) =~ "nothing of stderr is kept"
      end
    end

    test "raise for output that goes to files, or where the VM's goes, as for none" do
      for stdout <- [:inherit, {:file, "f"}, {:append, "f"}] do
        assert message(:run, stdout: stdout, into: []) =~
                 "with stdout: #{inspect(stdout)} there is no output to collect"

        assert message(:stream, stdout: stdout, lines: 80) =~ "there are no lines"
        assert message(:capture, stdout: stdout, max_output_size: 1) =~ "no output to limit"

        assert message(:run, stdout: stdout, stderr: {:file, "f"}, idle_timeout: 1) =~
                 "no output is ever seen"

        assert message(:process, stderr: stdout, stderr_tail_bytes: 1) =~ "nothing of stderr is kept"
        assert %Options{} = Options.new(:run, stdout: stdout, stderr: :capture, max_output_size: 1)
      end

      assert message(:run, stdout: {:file, "f"}, max_output_size: 1) =~ "rlimits: [fsize: bytes]"
    end

    test "do not raise where they mean something" do
      assert %Options{} = Options.new(:run, stdout: :disabled, stderr: :redirect)
      assert %Options{} = Options.new(:run, stdout: :disabled, stderr: :capture, max_output_size: 1)
      assert %Options{} = Options.new(:run, stdout: :disabled, idle_timeout: 1)
      assert %Options{} = Options.new(:stream, stdout: :disabled, stderr: :stream, lines: 80)
    end
  end

  describe "success?/2" do
    test "knows statuses, ranges and :any" do
      assert Options.success?(Options.new(:run, []), 0)
      refute Options.success?(Options.new(:run, []), 1)

      some = Options.new(:run, success: [0, 3, 10..12])
      assert for(status <- 0..255, Options.success?(some, status), do: status) == [0, 3, 10, 11, 12]

      refute Options.success?(Options.new(:run, success: []), 0)
      assert Options.success?(Options.new(:run, success: :any), 255)
    end
  end

  defp message(function, opts) do
    assert_raise(ArgumentError, fn -> Options.new(function, opts) end).message
  end
end
