defmodule NetRunner.MixCompilerTest do
  # native/mix_compiler.exs, as an application meets it that depends on NetRunner. The cargo is a script that
  # writes down how it was called and leaves what the real one would; the real one builds this very project.
  # Not async: it starts some thirty VMs, which tests that measure time should not have beside them.
  use ExUnit.Case, async: false

  @moduletag timeout: 120_000

  @cargo ~S"""
  #!/bin/sh
  echo "$PWD $*" >> "$CALLS"
  if [ -f "$FAILS" ]; then cat "$FAILS"; exit 101; fi
  if [ "$1" = rustc ] && [ -f "$FAILS.static" ]; then exit 101; fi
  target="$CARGO_TARGET_DIR"
  while [ $# -gt 0 ]; do
    case "$1" in
      --target-dir) target="$2" ;;
      --package) packages="$packages $2" ;;
    esac
    shift
  done
  out="$target/$CARGO_BUILD_TARGET/release"
  mkdir -p "$out"
  echo "a library" > "$out/libnet_runner_nif.dylib"
  echo '#!/bin/sh' > "$out/shepherd"
  chmod +x "$out/shepherd"
  cp -p "$out/shepherd" "$out/fixture"
  echo 'a build script may print anything'
  cat <<END
  {"reason":"compiler-artifact","target":{"name":"net_runner_nif"},"filenames":["$out/net_runner_nif.d","$out/libnet_runner_nif.dylib"],"executable":null}
  {"reason":"compiler-artifact","target":{"name":"shepherd"},"filenames":["$out/shepherd"],"executable":"$out/shepherd"}
  {"reason":"compiler-artifact","target":{"name":"fixture"},"filenames":["$out/fixture"],"executable":"$out/fixture"}
  {"reason":"build-finished","success":true}
  END
  """

  setup do
    directory =
      Path.join(
        System.tmp_dir!(),
        "net_runner_mix_compiler_#{System.unique_integer([:positive])}_#{System.pid()}"
      )

    on_exit(fn -> File.rm_rf!(directory) end)

    write(directory, "bin/cargo", @cargo)
    File.chmod!(Path.join(directory, "bin/cargo"), 0o755)

    for file <- ["mix.exs", "native/mix_compiler.exs", "Cargo.toml", "Cargo.lock"] do
      write(directory, "checkout/#{file}", File.read!(file))
    end

    write(directory, "checkout/native/nif/src/lib.rs", "// one\n")

    write(directory, "checkout/lib/net_runner/application.ex", """
    defmodule NetRunner.Application do
      use Application
      def start(_type, _args), do: Supervisor.start_link([], strategy: :one_for_one)
    end
    """)

    write(directory, "host/mix.exs", """
    defmodule Host.MixProject do
      use Mix.Project

      def project do
        [app: :host, version: "0.1.0", deps: [{:net_runner, path: "../checkout"}]]
      end
    end
    """)

    # What mix.exs of NetRunner is asked for here does not depend on which environment our own tests run in.
    env = [
      {"CARGO", Path.join(directory, "bin/cargo")},
      {"CALLS", Path.join(directory, "calls")},
      {"FAILS", Path.join(directory, "fails")},
      {"MIX_ENV", "dev"},
      {"MIX_BUILD_PATH", nil},
      {"MIX_BUILD_ROOT", nil},
      {"CARGO_TARGET_DIR", nil},
      {"CARGO_BUILD_TARGET_DIR", nil},
      {"CARGO_BUILD_TARGET", nil}
    ]

    %{directory: directory, env: env, built: Path.join(directory, "host/_build/dev/lib/net_runner")}
  end

  test "a dependency is built below the build of its host; the checkout is not written to", context do
    before = tree(Path.join(context.directory, "checkout"))
    mix!(context, "host", ["compile"])

    assert File.read!(Path.join(context.built, "priv/net_runner_nif.so")) == "a library\n"
    assert Bitwise.band(File.stat!(Path.join(context.built, "priv/shepherd")).mode, 0o111) == 0o111
    assert {:ok, %File.Stat{type: :directory}} = File.lstat(Path.join(context.built, "priv"))
    refute File.exists?(Path.join(context.built, "fixture"))

    assert [nif, shepherd] = calls(context)
    assert nif =~ "/checkout build --release --locked --message-format=json"
    assert nif =~ ~r"--target-dir #{context.built}/cargo --package nif$"
    assert shepherd =~ "/checkout rustc --release --locked --message-format=json"

    assert shepherd =~
             "--target-dir #{context.built}/cargo --package shepherd -- -C target-feature=+crt-static"

    assert tree(Path.join(context.directory, "checkout")) == before
  end

  test "cargo is asked again only when something has changed", context do
    mix!(context, "host", ["compile"])
    mix!(context, "host", ["compile"])
    assert builds(context) == 1

    write(context.directory, "checkout/native/nif/src/lib.rs", "// two\n")
    mix!(context, "host", ["compile"])
    assert builds(context) == 2

    File.rm!(Path.join(context.built, "priv/shepherd"))
    mix!(context, "host", ["compile"])
    assert builds(context) == 3
    assert File.exists?(Path.join(context.built, "priv/shepherd"))

    mix!(context, "host", ["compile"], [{"CARGO_BUILD_TARGET", "riscv64gc-unknown-linux-gnu"}])
    assert builds(context) == 4
    assert File.exists?(Path.join(context.built, "cargo/riscv64gc-unknown-linux-gnu/release/shepherd"))

    mix!(context, "host", ["deps.compile", "net_runner", "--force"])
    assert builds(context) == 5
  end

  test "a shepherd that cannot be linked statically is linked dynamically, and it is said", context do
    write(context.directory, "fails.static", "")
    assert mix!(context, "host", ["compile"]) =~ "linked dynamically"
    assert File.exists?(Path.join(context.built, "priv/shepherd"))
    assert List.last(calls(context)) =~ ~r"/checkout build .* --package shepherd$"
  end

  test "what is there is replaced, not written to: it may be running", context do
    mix!(context, "host", ["compile"])
    shepherd = Path.join(context.built, "priv/shepherd")
    inode = File.stat!(shepherd).inode

    write(context.directory, "checkout/native/nif/src/lib.rs", "// two\n")
    mix!(context, "host", ["compile"])

    assert File.stat!(shepherd).inode != inode
    assert Enum.sort(File.ls!(Path.dirname(shepherd))) == ["net_runner_nif.so", "shepherd"]
  end

  test "CARGO_TARGET_DIR is where cargo builds", context do
    target = Path.join(context.directory, "target")
    mix!(context, "host", ["compile"], [{"CARGO_TARGET_DIR", target}])
    refute hd(calls(context)) =~ "--target-dir"
    assert File.exists?(Path.join(target, "release/shepherd"))
    assert File.exists?(Path.join(context.built, "priv/shepherd"))
  end

  test "a release has the artefacts, and not cargo's files", context do
    mix!(context, "host", ["release", "--quiet"], [{"MIX_ENV", "prod"}])
    [released] = Path.wildcard(Path.join(context.directory, "host/_build/prod/rel/host/lib/net_runner-*"))
    assert Enum.sort(File.ls!(Path.join(released, "priv"))) == ["net_runner_nif.so", "shepherd"]
    assert Enum.sort(File.ls!(released)) == ["ebin", "priv"]
  end

  test "in NetRunner's own checkout cargo's directory is target/, and the tests have their fixture",
       context do
    mix!(context, "checkout", ["compile"], [{"MIX_ENV", "test"}])
    assert hd(calls(context)) =~ "--target-dir #{context.directory}/checkout/target"
    assert hd(calls(context)) =~ "--package fixture"
    built = Path.join(context.directory, "checkout/_build/test/lib/net_runner")
    assert File.exists?(Path.join(built, "fixture"))

    mix!(context, "checkout", ["do", "compile.net_runner_native", "+", "clean"], [{"MIX_ENV", "test"}])
    refute File.exists?(Path.join(built, "fixture"))
    refute File.exists?(Path.join(built, "priv/shepherd"))
  end

  test "errors of rustc are printed and become diagnostics of Mix", context do
    write(context.directory, "fails", """
    {"reason":"compiler-message","manifest_path":"/n/Cargo.toml","message":{"rendered":"warning: careful\\n","level":"warning","message":"careful","spans":[]}}
    {"reason":"compiler-message","message":{"rendered":"error[E0308]: mismatched types\\n","level":"error","message":"mismatched types","spans":[{"file_name":"native/nif/src/lib.rs","line_start":9,"column_start":1,"is_primary":false},{"file_name":"native/nif/src/lib.rs","line_start":3,"column_start":7,"is_primary":true}]}}
    {"reason":"compiler-message","message":{"rendered":"For more information\\n","level":"failure-note","message":"For more","spans":[]}}
    {"reason":"build-finished","success":false}
    """)

    {output, 1} = mix(context, "host", ["compile"])
    assert output =~ "error[E0308]: mismatched types\n"
    assert output =~ "For more information\n"

    assert {:error, [warning, error]} = run_compiler(context)
    assert %{severity: :warning, message: "careful", file: "/n/Cargo.toml", position: 0} = warning

    assert %Mix.Task.Compiler.Diagnostic{
             severity: :error,
             message: "mismatched types",
             position: {3, 7},
             compiler_name: "net_runner_native"
           } = error

    assert error.file == Path.join(context.directory, "checkout/native/nif/src/lib.rs")

    # And again: a build that failed has left nothing to be content with.
    File.rm!(Path.join(context.directory, "fails"))
    assert {:ok, []} = run_compiler(context)
    assert {:noop, []} = run_compiler(context)
  end

  test "an error of cargo itself is one diagnostic, with what was called", context do
    write(context.directory, "fails", "")
    assert {:error, [diagnostic]} = run_compiler(context)
    assert diagnostic.severity == :error
    assert diagnostic.message =~ ~r"`.*/bin/cargo build --release .*` in .*/checkout failed with status 101"
  end

  test "without cargo it says what to install", context do
    {output, 1} = mix(context, "host", ["compile"], [{"CARGO", "/nowhere/cargo"}])
    assert output =~ ~r/"\/nowhere\/cargo" was not found. Install Rust 1\.\d+ or later, with cargo/
  end

  test "the package has every member of the Rust workspace" do
    [members] = Regex.run(~r/^members = \[(.*?)\]/ms, File.read!("Cargo.toml"), capture: :all_but_first)
    packaged = Mix.Project.config()[:package][:files]

    for [member] <- Regex.scan(~r/"(.*?)"/, members, capture: :all_but_first) do
      assert Enum.any?(packaged, &String.starts_with?(member <> "/", &1 <> "/")), "#{member} is not packaged"
    end
  end

  defp mix!(context, project, arguments, env \\ []) do
    {output, status} = mix(context, project, arguments, env)
    assert status == 0, output
    output
  end

  defp mix(context, project, arguments, env \\ []) do
    options = [cd: Path.join(context.directory, project), env: context.env ++ env, stderr_to_stdout: true]
    System.cmd("mix", arguments, options)
  end

  # What the compiler returns to Mix, in a VM of its own.
  defp run_compiler(context) do
    result = Path.join(context.directory, "result")

    code = """
    Mix.start()
    Code.require_file("mix.exs")
    returned = Mix.Task.run("compile.net_runner_native", [])
    File.write!(#{inspect(result)}, :erlang.term_to_binary(returned))
    """

    options = [cd: Path.join(context.directory, "checkout"), env: context.env, stderr_to_stdout: true]
    {output, status} = System.cmd("elixir", ["-e", code], options)
    assert status == 0, output
    result |> File.read!() |> :erlang.binary_to_term()
  end

  defp builds(context), do: Enum.count(calls(context), &(&1 =~ "--package nif"))

  defp calls(context),
    do: context.directory |> Path.join("calls") |> File.read!() |> String.split("\n", trim: true)

  defp write(directory, file, content) do
    path = Path.join(directory, file)
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, content)
  end

  defp tree(directory) do
    for path <- Path.wildcard(Path.join(directory, "**"), match_dot: true) do
      stat = File.stat!(path, time: :posix)
      {path, stat.mtime, stat.size, stat.inode}
    end
  end
end
