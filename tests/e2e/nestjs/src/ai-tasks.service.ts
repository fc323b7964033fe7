import { ConflictException, Injectable, NotFoundException } from '@nestjs/common';
import { isDeepStrictEqual } from 'node:util';
import { Callbacks } from './callbacks.js';
import type { AiTask } from './schemas.js';
import { Store } from './store.js';
import type { UpdateAiTaskDto } from './update-ai-task.dto.js';

@Injectable()
export class AiTasksService {
  constructor(
    private readonly store: Store,
    private readonly callbacks: Callbacks,
  ) {}

  async create(tasks: Partial<AiTask>[]): Promise<string[]> {
    const { tasks: collection } = this.store;
    const created = tasks.map((task) => new collection.model(task));
    for (const task of created) await collection.save(task);
    wakeWorker();
    return created.map((task) => task.id);
  }

  pending(limit = Infinity): AiTask[] {
    return this.store.tasks
      .all()
      .filter((task) => task.state === 'pending')
      .slice(0, limit);
  }

  /**
   * The worker repeats a PATCH whose answer it did not get. So the same outcome once more is answered like the
   * first time and has no further effect; another outcome for a task that has one is a conflict. A callback that
   * throws, or is still running when the repeated PATCH comes, runs again: make it repeatable.
   */
  async update(id: string, { state, result, error }: UpdateAiTaskDto): Promise<AiTask> {
    const task = this.store.tasks.find(id);
    if (!task) throw new NotFoundException(`AI task ${id} not found`);
    if (task.state === 'succeeded' || task.state === 'failed') {
      const isRepeated = state === task.state && (result === undefined || isDeepStrictEqual(result, task.result));
      if (!isRepeated) throw new ConflictException(`AI task ${id} is already ${task.state}`);
    } else {
      await this.store.tasks.save(task.set({ state, result, error }));
    }
    if (task.state === 'succeeded' && task.result !== undefined && !task.calledBackAt) {
      await this.callbacks.run(task);
      await this.store.tasks.save(task.set({ calledBackAt: new Date() }));
    }
    return task;
  }
}

/** May be lost without harm, so nobody waits for it: the worker polls all the same. */
function wakeWorker(): void {
  const { WORKER_WAKE_URL: url, WAKE_TOKEN: token } = process.env;
  if (url) fetch(url, { method: 'POST', headers: { authorization: `Bearer ${token}` } }).catch(() => {});
}
