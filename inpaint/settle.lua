-- A job's accounts, put before every script that ends or begins one. All keys are those of one Redis.
-- inpaint:load (hash) counts unfinished jobs: by lane, by share (who they count against), and the
-- bytes of their uploads. A job carries what it counts for as fields of its own in RQ's hash.

local LOAD = 'inpaint:load'
local AFTERWARDS = 30 -- seconds for which RQ's record of an album's job is kept: its item tells the same for longer
local BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

local function count(field, amount)
  if redis.call('HINCRBY', LOAD, field, amount) <= 0 then
    redis.call('HDEL', LOAD, field)
  end
end

local function decoded(text) -- of base64, in which RQ wraps what a worker returns
  local value, bits, bytes = 0, 0, {}
  for digit in string.gmatch(text, '[%w+/]') do
    value, bits = value * 64 + string.find(BASE64, digit, 1, true) - 1, bits + 6
    if bits >= 8 then
      bits = bits - 8
      bytes[#bytes + 1] = string.char(math.floor(value / 2 ^ bits))
      value = value % 2 ^ bits
    end
  end
  return table.concat(bytes)
end

-- All keys of an album live on for as long as those of its youngest change.
local function keep(album, seconds)
  for _, part in ipairs({'', ':items', ':states', ':names', ':log', ':pending', ':same'}) do
    redis.call('EXPIRE', 'inpaint:album:' .. album .. part, seconds)
  end
end

-- What has ended: the words of inpaint/albums.py for it, and an Outcome as JSON ('' if canceled).
local function ending(id)
  local status, lost = unpack(redis.call('HMGET', 'rq:job:' .. id, 'status', 'lost'))
  if status == 'canceled' or status == 'stopped' then
    return 'canceled', ''
  end
  local last = redis.call('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 1)
  local result = {}
  for i = 1, last[1] and #last[1][2] or 0, 2 do
    result[last[1][2][i]] = last[1][2][i + 1]
  end
  if status == 'finished' and result.return_value then
    local outcome = decoded(result.return_value)
    if cjson.decode(outcome).problem then
      return 'failed', outcome
    end
    return 'succeeded', (string.gsub(string.gsub(outcome, ', "', ',"'), '": ', '":')) -- it holds no free text
  end
  local problem = {code = 'internal', detail = 'The worker failed on this job.'}
  if tonumber(lost or '0') > 0 and result.worker_name == '' then
    problem = {code = 'worker-lost', detail = 'Every worker that ran this job was lost.'}
  end
  return 'failed', cjson.encode({problem = problem})
end

-- An item has ended.
local function close(key, item, id, print, status, outcome)
  redis.call('LSET', key .. ':states', item - 1, status .. ' ' .. id .. ' ' .. print .. ' ' .. outcome)
  redis.call('HINCRBY', key, status, 1)
  redis.call('RPUSH', key .. ':log', item .. ' ' .. status)
end

-- A job of an album has ended: its item says so from now on. One that is run again meanwhile, or forgotten, does not.
local function fold(id, album, item)
  local key = 'inpaint:album:' .. album
  local state = redis.call('LINDEX', key .. ':states', item - 1)
  local waiting, print = string.match(state or '', '^queued (%S+) (%S+)')
  if waiting ~= id then
    return
  end
  local queue, kept = unpack(redis.call('HMGET', 'rq:job:' .. id, 'origin', 'result_ttl'))
  local status, outcome = ending(id)
  close(key, item, id, print, status, outcome)
  if status == 'succeeded' then
    redis.call('SET', 'inpaint:done:' .. print, album .. ' ' .. item, 'EX', kept)
  end
  local same = redis.call('HGET', key .. ':same', print) or '' -- itself, and those that end as it does
  if tonumber(string.match(same, '^%d+')) == item then
    redis.call('HDEL', key .. ':same', print)
    for number in string.gmatch(same, '%d+') do
      local own = string.match(redis.call('LINDEX', key .. ':states', number - 1), '^queued (%S+)')
      if own then
        close(key, number, own, print, status, outcome)
        if status == 'succeeded' then
          local text = redis.call('LINDEX', key .. ':items', number - 1)
          redis.call('LSET', key .. ':items', number - 1, string.sub(text, 1, -2) .. ',"reused":true}')
        end
      end
    end
  end
  keep(album, kept)
  local soon = tonumber(redis.call('TIME')[1]) + AFTERWARDS
  for _, registry in ipairs({'finished', 'failed', 'canceled'}) do
    redis.call('ZADD', 'rq:' .. registry .. ':' .. queue, 'XX', soon, id)
  end
  redis.call('EXPIRE', 'rq:job:' .. id, AFTERWARDS)
  redis.call('EXPIRE', 'rq:results:' .. id, AFTERWARDS)
end

-- A job has reached its end, in the same script, and all of it is written: it counts no longer, and who
-- waits is told what RQ's record says: a JSON array of id, status, lost, started_at and its result's fields.
local function settle(id)
  local mine = redis.call('HMGET', 'rq:job:' .. id, 'lane', 'share', 'bytes', 'reply', 'item')
  if mine[1] then
    count(mine[1], -1)
    count(mine[2], -1)
    count('bytes', -tonumber(mine[3]))
  end
  if mine[4] and mine[4] ~= '' then
    local told = redis.call('HMGET', 'rq:job:' .. id, 'status', 'lost', 'started_at')
    local last = redis.call('XREVRANGE', 'rq:results:' .. id, '+', '-', 'COUNT', 1)
    redis.call('RPUSH', mine[4], cjson.encode({id, told, last[1] and last[1][2] or false}))
    redis.call('EXPIRE', mine[4], 60)
  end
  if mine[5] then
    fold(id, string.sub(mine[2], 7), tonumber(mine[5])) -- without album:
  end
end
