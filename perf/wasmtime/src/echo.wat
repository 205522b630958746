;; Answers a request with its own bytes: perf/programs/echo.rs without a system below it.
(module
  ;; Requests are written at 0, answers are at 32768; 64 KiB in all.
  (memory (export "memory") 1 1)
  ;; echo(at, length) -> where the answer is, as long as the request
  (func (export "echo") (param $at i32) (param $length i32) (result i32)
    (memory.copy (i32.const 32768) (local.get $at) (local.get $length))
    (i32.const 32768)))
