-- replay.lua: a wrk script that sends the requests of a file in turn and reports in JSON.
--
-- args[1]  the file: each request with its length in bytes, in decimal, and a newline before it
-- args[2]  how long each client pauses before a request, in milliseconds on average; 0 for not at all. The pauses are
--          exponential, so that requests come at random moments, as those of many sensors do
--
-- Use it with one wrk thread: every thread would start at the first request. The report is the line that starts with
-- {"requests"; latencies are in microseconds, and "refused" are answers with a status of 400 or more.

local requests, next_request = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local length = file:read("*n", "*l")
  while length do
    requests[#requests + 1] = file:read(length)
    length = file:read("*n", "*l")
  end
  file:close()
  local pause = tonumber(args[2])
  if pause > 0 then
    math.randomseed(1)
    function delay()
      return math.floor(-pause * math.log(1 - math.random()) + math.random())
    end
  end
end

function request()
  next_request = next_request % #requests + 1
  return requests[next_request]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "refused": %d, "failed": %d, "timed_out": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
