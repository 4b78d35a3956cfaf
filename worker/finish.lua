-- A job's end as RQ writes it, put before the scripts that end jobs of workers; after settle.lua.
-- status: 'finished' or 'failed'; ended_at: as RQ writes times; kept: seconds, of a job that does not say itself for how
-- long; result: RQ's Result, fields and values in turn.

local function finish(queue, id, status, ended_at, kept, result)
  local job, results = 'rq:job:' .. id, 'rq:results:' .. id
  local own = tonumber(redis.call('HGET', job, status == 'failed' and 'failure_ttl' or 'result_ttl')) or -1
  kept = own < 0 and kept or own -- -1: for ever, as RQ has it; not here
  redis.call('HSET', job, 'status', status, 'ended_at', ended_at, 'last_heartbeat', ended_at)
  redis.call('EXPIRE', job, kept)
  redis.call('ZADD', 'rq:' .. status .. ':' .. queue, redis.call('TIME')[1] + kept, id)
  redis.call('XADD', results, 'MAXLEN', 10, '*', unpack(result))
  redis.call('EXPIRE', results, kept)
  settle(id)
end
