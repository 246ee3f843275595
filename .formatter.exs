locals_without_parens = [defcommand: 2, defcommand: 3]

[
  inputs: [
    "{mix,.formatter}.exs",
    "native/mix_compiler.exs",
    "{config,lib,test,bench,examples}/**/*.{ex,exs}"
  ],
  line_length: 110,
  locals_without_parens: locals_without_parens,
  export: [locals_without_parens: locals_without_parens]
]
