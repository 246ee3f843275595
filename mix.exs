Code.require_file("native/mix_compiler.exs", __DIR__)

defmodule NetRunner.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :net_runner,
      version: @version,
      elixir: "~> 1.17",
      # Before Elixir's own: the NIF must be there when NetRunner.Nif is loaded.
      compilers: [:net_runner_native | Mix.compilers()],
      elixirc_paths: elixirc_paths(Mix.env()),
      start_permanent: Mix.env() == :prod,
      deps: [],
      name: "NetRunner",
      description: description(),
      package: package(),
      docs: docs()
    ]
  end

  def application do
    [mod: {NetRunner.Application, []}, extra_applications: [:logger]]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  defp description do
    "Runs operating-system processes so that nothing it starts can outlive it, no byte is lost and no mailbox floods."
  end

  # There is no priv/ in the sources: native/mix_compiler.exs says why.
  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{},
      # bench/floor is a member of the workspace: without it cargo does not load the rest.
      files:
        ~w(lib native bench/floor docs guides mix.exs .formatter.exs Cargo.toml Cargo.lock clippy.toml) ++
          ~w(README.md CHANGELOG.md CONTRIBUTING.md LICENSE)
    ]
  end

  defp docs do
    [
      main: "readme",
      extras: ["README.md", "CHANGELOG.md"] ++ Path.wildcard("{guides,docs}/*.md"),
      groups_for_extras: [Guides: ~r"^guides/", Internals: ~r"^docs/"],
      source_ref: "v#{@version}"
    ]
  end
end
