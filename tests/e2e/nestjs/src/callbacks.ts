import { Injectable } from '@nestjs/common';
import { Store } from './store.js';
import type { AiTask } from './schemas.js';

/** What follows from a result, by the task's `callbackRoute`. A route that nobody registered does nothing. */
@Injectable()
export class Callbacks {
  constructor(private readonly store: Store) {}

  private readonly routes: Record<string, (params: Record<string, string>, result: unknown) => Promise<void>> = {
    verification_update_embedding: async ({ targetId, field }, result) => {
      const { targets } = this.store;
      const target = targets.find(targetId) ?? new targets.model({ _id: targetId });
      target.set(field, result);
      target.updates += 1;
      await targets.save(target);
    },
  };

  async run(task: AiTask): Promise<void> {
    await this.routes[task.callbackRoute ?? '']?.(task.callbackParams ?? {}, task.result);
  }
}
