-- Ends jobs whose lease this worker still holds; after settle.lua and finish.lua.
-- ARGV: key of RQ's record of the worker, its name, now as RQ writes times and in seconds, seconds for which ended jobs
-- are kept; then for each job: queue, id, token, begin in seconds, 'finished' or 'failed', return value or traceback as
-- RQ writes them.
-- Returns for each job 1, or 2 if it was canceled, 0 if it was not ours any more: then nothing of it is written.

local worker, name, ended_at, ended, kept = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local mine, count, seconds = {}, {finished = 0, failed = 0}, 0
for i = 6, #ARGV, 6 do
  local queue, id, token, began, status, text = unpack(ARGV, i, i + 5)
  -- The fence. It comes first because it frees memory: so a full server still drains.
  local held = redis.call('ZREM', 'rq:wip:' .. queue, id .. ':' .. token) == 1
  local found = redis.call('HGET', 'rq:job:' .. id, 'status')
  held = held and found == 'started'
  if held then
    local failed = status == 'failed'
    finish(queue, id, status, ended_at, kept, {
      'type', failed and 2 or 1, 'worker_name', name, failed and 'exc_string' or 'return_value', text,
      'execution_id', token, 'execution_started_at', began, 'execution_ended_at', ended,
    })
    count[status], seconds = count[status] + 1, seconds + ended - began
  end
  mine[#mine + 1] = held and 1 or found == 'canceled' and 2 or 0
end
for field, ends in pairs({successful_job_count = count.finished, failed_job_count = count.failed}) do
  if ends > 0 then
    redis.call('HINCRBY', worker, field, ends)
  end
end
if seconds > 0 then
  redis.call('HINCRBYFLOAT', worker, 'total_working_time', string.format('%.6f', seconds))
end
return mine
